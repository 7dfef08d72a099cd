// Requests to our own host. An answer that is not our JSON is no answer: a Wi-Fi login page says 200 to everything.

export const HEADERS = { "X-PDM-Form": "1" };
const PATIENCE_MS = 30000;

export class NoAnswer extends Error {}

// {status, said}: said is our JSON object. Throws NoAnswer: no network, a redirect, or somebody else answered.
export async function ask(method, url, body, { type = "application/json", patience = PATIENCE_MS } = {}) {
  const options = {
    method, cache: "no-store", credentials: "same-origin", redirect: "error", headers: {},
    signal: AbortSignal.timeout(patience),
  };
  if (method !== "GET") {
    options.headers = { ...HEADERS, "Content-Type": type };
    options.body = body instanceof ArrayBuffer ? body : JSON.stringify(body ?? {});
  }
  let answer;
  try {
    answer = await fetch(url, options);
    if (answer.status === 204) return { status: 204, said: {} };
    const said = await answer.json();
    if (said === null || typeof said !== "object") throw new TypeError("not ours");
    return { status: answer.status, said, after: Number(answer.headers.get("Retry-After")) || 0 };
  } catch (error) {
    if (answer && answer.status >= 500) return { status: answer.status, said: {}, after: 0 }; // a proxy speaks for a dead host
    throw new NoAnswer(error.message);
  }
}
