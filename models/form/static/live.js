// Keeps the part of the page marked data-live current, and says so when it can not. Without script the page still shows
// what was true when it was opened.
const part = document.querySelector("[data-live]");
const strip = document.querySelector("#strip");
const clock = document.querySelector("#clock");
let last = new Date();

async function refresh() {
  try {
    const answer = await fetch(part.dataset.live, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const html = await answer.text();
    if (html !== part.innerHTML) part.innerHTML = html;
    last = new Date();
    strip.hidden = true;
  } catch {
    strip.textContent = `No answer. This is what was true at ${last.toLocaleTimeString()}. Trying again …`;
    strip.hidden = false;
  }
  clock.textContent = `Data of ${last.toLocaleTimeString()}`;
}

setInterval(() => { if (!document.hidden) refresh(); }, 2000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
