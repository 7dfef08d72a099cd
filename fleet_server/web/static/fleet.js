// Keeps the overview current: fetches the sections, replaces those that changed, says so when it can not. Times are shown in
// the visitor's own zone. Without script the page shows what was true when it was opened, in UTC.
const strip = document.querySelector("#strip");
const seen = new Map(); // section id -> HTML as the server sent it
let good = new Date();

function localTimes(root) {
  const today = new Date().toDateString();
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    const date = at.toDateString() === today ? "" : at.toLocaleDateString([], { day: "numeric", month: "short" }) + " ";
    time.textContent = date + at.toLocaleTimeString();
    time.title = time.dateTime;
  }
}

async function refresh() {
  try {
    const answer = await fetch("/now", { cache: "no-store", signal: AbortSignal.timeout(8000) });
    if (!answer.ok) throw new Error(answer.statusText);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const sections = page.querySelectorAll("section[id]");
    if (!sections.length) throw new Error("not our page"); // a Wi-Fi login says 200 to everything
    for (const fresh of sections) {
      const html = fresh.innerHTML;
      const here = document.getElementById(fresh.id);
      // Whoever is about to press something keeps it; the section follows when the focus has moved on.
      if (!here || seen.get(fresh.id) === html || here.contains(document.activeElement)) continue;
      seen.set(fresh.id, html);
      here.replaceChildren(...fresh.childNodes);
      localTimes(here);
    }
    good = new Date();
    strip.hidden = true;
  } catch {
    strip.textContent = `The server does not answer. What you see is of ${good.toLocaleTimeString()}. Trying again …`;
    strip.hidden = false;
  }
}

async function keepGoing() {
  if (!document.hidden) await refresh();
  setTimeout(keepGoing, 2000);
}

localTimes(document);
if (document.querySelector("#loop")) {
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  setTimeout(keepGoing, 1000);
}
