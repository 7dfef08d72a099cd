// Remembers the name, saves without leaving the page, and keeps in this browser what finds no network. The id inside makes
// sending twice harmless. Without script the form posts itself.
const form = document.querySelector("form.note-form");
const main = document.querySelector("main");
const strip = document.querySelector("#strip");
const NAME = "pdm.name";
const WAITING = "pdm.waiting"; // {annotation_id: {action, fields}}

function waiting() {
  try {
    return JSON.parse(localStorage.getItem(WAITING)) || {};
  } catch {
    return {};
  }
}

// Throws when this browser stores nothing: then it is not kept, and nobody may be told that it is.
function keep(id, entry) {
  const all = waiting();
  if (entry) all[id] = entry;
  else delete all[id];
  localStorage.setItem(WAITING, JSON.stringify(all));
}

function tell() {
  const n = Object.keys(waiting()).length;
  strip.hidden = n === 0;
  strip.textContent = `${n} saved on this phone, not sent yet. Sent when the network is back.`;
}

// The answer's page. Throws if nobody who knows answered: a Wi-Fi login page says 200 to everything.
async function send({ action, fields }) {
  const answer = await fetch(action, { method: "POST", body: new URLSearchParams(fields), redirect: "follow" });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
  if (answer.status >= 500 || !page?.querySelector(".done, .problem")) throw new Error("no answer that counts");
  return page;
}

let sending = false;
async function sendWaiting() {
  if (sending) return;
  sending = true;
  try {
    for (const [id, entry] of Object.entries(waiting())) {
      await send(entry);
      keep(id, null);
    }
  } catch {
    // Tried again by the timer, when the network is back, and when the page is looked at.
  } finally {
    sending = false;
    tell();
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true; // a glove taps twice
  const fields = [...new FormData(form)];
  const id = new FormData(form).get("annotation_id");
  const entry = { action: form.action, fields };
  let kept = false;
  try {
    localStorage.setItem(NAME, form.elements.annotator.value);
    keep(id, entry);
    kept = true;
  } catch {
    // No storage in this browser: sent now or not at all.
  }
  try {
    const page = await send(entry);
    if (kept) keep(id, null);
    main.replaceChildren(...page.childNodes);
    scrollTo(0, 0);
    tell();
  } catch {
    if (kept) {
      tell();
      button.textContent = "Saved on this phone";
    } else {
      strip.hidden = false;
      strip.textContent = "Not saved: no network. Please try again.";
      button.disabled = false;
    }
  }
});

if (!form.elements.annotator.value) {
  try {
    form.elements.annotator.value = localStorage.getItem(NAME) || "";
  } catch {
    // Nothing is stored here: the name is typed each time.
  }
}
addEventListener("online", sendWaiting);
document.addEventListener("visibilitychange", () => { if (!document.hidden) sendWaiting(); });
setInterval(sendWaiting, 15000);
sendWaiting();
