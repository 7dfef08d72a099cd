// Sends what waits; used by the page and by the worker, one at a time over all tabs (Web Lock). A thing leaves "waiting" only on
// our own JSON that names its id. What fails waits alone: the others go on.

import { ask, NoAnswer } from "./api.js";
import { all, asked, get, write } from "./db.js";
import { HOLD_MS, isDue, LONGEST_WAIT_MS, change, stateOf, tell } from "./outbox.js";

let running = false;

// "idle" nothing was tried (says nothing of the network), "sent", "offline", "signin", "server", or "busy".
// `now`: after whoever sends already, and without regard to when the next try is due; `held`: also what may still be taken back, as nobody is there to do so.
export async function flush({ now = false, held = false } = {}) {
  if (navigator.locks) {
    return navigator.locks.request("pdm-form-outbox", { ifAvailable: !now }, (lock) => (lock ? deliver(now, held) : "busy"));
  }
  if (running) return "busy";
  running = true;
  try {
    return await deliver(now, held);
  } finally {
    running = false;
  }
}

async function deliver(impatient, held) {
  const tried = new Set();
  let outcome = "idle";
  for (let thing; (thing = await next(tried, impatient, held)); ) {
    tried.add(thing.id);
    outcome = await send(thing);
    if (outcome === "offline" || outcome === "signin") break;
  }
  if (outcome === "sent" || outcome === "idle") outcome = (await lookUp()) ?? outcome;
  tell({ changed: true, outcome });
  return outcome;
}

// The one with the fewest tries first, so that one that always fails does not stand in the way; then the oldest.
async function next(tried, impatient, held) {
  const now = Date.now();
  const ready = (await all("things")).filter((thing) => stateOf(thing) === "waiting" && !tried.has(thing.id)
    && (held || isDue(thing.held, now, HOLD_MS)) && (impatient || isDue(thing.next, now, LONGEST_WAIT_MS)));
  return ready.sort((a, b) => a.tries - b.tries || a.order - b.order)[0];
}

async function send(thing) {
  try {
    if (thing.state === "waiting") {
      if (!(await start(thing.id))) return "sent"; // taken back at the last moment
      const outcome = await put(thing);
      if (outcome !== "sent") return outcome;
    }
    for (const file of thing.files.filter((each) => each.state === "waiting")) {
      const outcome = await upload(thing, file);
      if (outcome !== "sent") return outcome;
    }
    return "sent";
  } catch (error) {
    if (!(error instanceof NoAnswer)) throw error;
    return later(thing, "offline");
  }
}

// From here on it may have arrived, whatever we hear: it can not be taken back, only corrected.
function start(id) {
  return write(["things"], async ({ things }) => {
    const thing = await asked(things.get(id));
    if (thing && !thing.started) things.put({ ...thing, started: true });
    return Boolean(thing);
  });
}

async function put(thing) {
  const body = thing.kind === "annotation" ? { ...thing.body, sent_at: new Date().toISOString() } : thing.body;
  const { status, said, after } = await ask("PUT", thing.url, body);
  const named = said[thing.idName] === thing.id;
  if ((status === 200 || status === 201) && named) {
    const state = said.state === "stored" ? "stored" : "sent";
    await change(thing.id, { state, problem: "", judgement: judgement(said), next: 0, tries: 0 });
    return "sent";
  }
  if (status === 200 || status === 201) throw new NoAnswer("it does not name what was sent");
  if (named && [409, 413, 415, 422].includes(status)) {
    const reasons = said.reasons?.length ? said.reasons : [{ field: "", reason: said.error?.message ?? String(status) }];
    await change(thing.id, { state: "refused", reasons, problem: said.error?.code ?? "" });
    return "sent"; // the network is fine
  }
  if (status === 401) return later(thing, "signin", said.error?.code);
  return later(thing, "server", said.error?.code ?? `http_${status}`, after);
}

export function judgement(said) {
  return said.status ? { status: said.status, reason: said.reason ?? "" } : null;
}

async function later(thing, outcome, problem = "", afterS = 0) {
  const wait = Math.max(afterS * 1000, Math.min(LONGEST_WAIT_MS, 2000 * 2 ** Math.min(thing.tries, 5)));
  const jitter = 0.5 + Math.random() / 2;
  const next = Date.now() + Math.min(LONGEST_WAIT_MS, wait) * jitter;
  await change(thing.id, { tries: thing.tries + 1, next, problem });
  return outcome;
}

const PIECE = 128 * 1024;

// Goes on where the other side says it is. The file's state is its own: a refused photo does not undo an accepted verdict.
async function upload(thing, { sha256, media_type }) {
  const file = await get("files", sha256);
  if (!file) return fileIs(thing.id, sha256, "lost");
  const size = file.bytes.byteLength;
  const known = await ask("GET", `/api/attachments/${sha256}/state`);
  if (known.status === 401) return later(thing, "signin", known.said.error?.code);
  let offset = known.said.sha256 === sha256 ? known.said.offset : 0;
  let whole = ["kept", "stored"].includes(known.said.state);
  for (let restarts = 0; !whole; ) {
    const piece = file.bytes.slice(offset, offset + PIECE);
    const query = new URLSearchParams({ offset, size, media_type });
    const { status, said, after } = await ask("PUT", `/api/attachments/${sha256}?${query}`, piece,
      { type: "application/octet-stream", patience: 120000 });
    const named = said.sha256 === sha256;
    if (status === 200 || status === 201) {
      if (!named) throw new NoAnswer("it does not name what was sent");
      offset = said.offset;
      whole = said.state !== "partial";
    } else if (named && status === 409 && restarts++ < 3) {
      offset = said.offset ?? 0; // another tab or an earlier try was further, or less far, than we knew
    } else if (named && [413, 415, 422].includes(status)) {
      return fileIs(thing.id, sha256, "refused", said.error?.message);
    } else {
      return later(thing, status === 401 ? "signin" : "server", said.error?.code ?? `http_${status}`, after);
    }
  }
  return fileIs(thing.id, sha256, "sent");
}

async function fileIs(id, sha256, state, reason = "") {
  await write(["things", "files"], async ({ things, files }) => {
    const thing = await asked(things.get(id));
    if (!thing) return;
    const changed = thing.files.map((file) => (file.sha256 === sha256 ? { ...file, state, reason } : file));
    things.put({ ...thing, files: changed, tries: 0, next: 0, problem: "" });
    const others = (await asked(things.getAll())).some((other) => other.id !== id
      && other.files.some((file) => file.sha256 === sha256 && file.state === "waiting"));
    if (state === "sent" && !others) files.delete(sha256);
  });
  return "sent";
}

const LOOK_UPS = 8; // in one go

// Asks what has become of what the agent keeps: has the fleet's receipt come? Undefined: nothing to ask.
async function lookUp() {
  const sent = (await all("things")).filter((thing) => thing.state === "sent" && thing.kind === "annotation");
  sent.sort((a, b) => (a.asked ?? 0) - (b.asked ?? 0) || a.order - b.order);
  for (const thing of sent.slice(0, LOOK_UPS)) {
    try {
      const { status, said } = await ask("GET", thing.url);
      if (status === 401) return "signin";
      const known = status === 200 && said[thing.idName] === thing.id;
      const news = known ? { judgement: judgement(said), ...(said.state === "stored" && { state: "stored" }) } : {};
      await change(thing.id, { ...news, asked: (thing.asked ?? 0) + 1 });
    } catch (error) {
      if (!(error instanceof NoAnswer)) throw error;
      return "offline";
    }
  }
  return undefined;
}
