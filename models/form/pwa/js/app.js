// Starts the form: words, store, router, the strip that says what is not sent yet, and the times at which it tries to send.

import { flush } from "./deliver.js";
import { h, link } from "./dom.js";
import { onChange, tidy } from "./outbox.js";
import * as machines from "./pages/machines.js";
import { changed, heard, load, refresh, reload, state, subscribe } from "./state.js";
import { strip, tabs } from "./frame.js";
import { preferred, t, useLanguage } from "./texts.js";

const ROUTES = [
  [/^\/form\/?$/, async () => machines],
  [/^\/form\/m\/(?<asset>[^/]+)$/, () => import("./pages/machine.js")],
  [/^\/form\/m\/(?<asset>[^/]+)\/report$/, () => import("./pages/verdict.js")],
  [/^\/form\/a\/(?<event>[^/]+)$/, () => import("./pages/verdict.js")],
  [/^\/form\/q\/(?<question>[^/]+)$/, () => import("./pages/verdict.js")],
  [/^\/form\/again\/(?<again>[^/]+)$/, () => import("./pages/verdict.js")],
  [/^\/form\/saved\/(?<id>[^/]+)$/, () => import("./pages/saved.js")],
  [/^\/form\/outbox$/, () => import("./pages/outbox.js")],
  [/^\/form\/outcomes$/, () => import("./pages/outcomes.js")],
  [/^\/form\/questions$/, () => import("./pages/questions.js")],
  [/^\/form\/work$/, () => import("./pages/work.js")],
  [/^\/form\/code$/, () => import("./pages/code.js")],
  [/^\/form\/scan$/, () => import("./pages/scan.js")],
  [/^\/form\/more$/, () => import("./pages/more.js")],
  [/^\/form\/settings$/, () => import("./pages/settings.js")],
  [/^\/form\/(sign-in|enrol)$/, () => import("./pages/signin.js")],
];

const view = document.querySelector("#view");
let shown = { model: null, text: "", page: null, params: {} };
let pressed = false; // never redraw under a finger

export async function go(address, { replace = false } = {}) {
  const url = new URL(address, location.href);
  history[replace ? "replaceState" : "pushState"](null, "", url);
  await route();
}

async function route() {
  const path = location.pathname;
  const [params, load] = ROUTES.map(([pattern, module]) => [path.match(pattern), module]).find(([match]) => match) ?? [null, null];
  if (!load) return go("/form/", { replace: true });
  await shown.page?.leave?.(shown.params);
  const page = await load();
  if (location.pathname !== path) return undefined; // went on meanwhile
  const given = Object.fromEntries(Object.entries(params.groups ?? {}).map(([k, v]) => [k, decodeURIComponent(v)]));
  shown = { page, params: { ...given, query: new URLSearchParams(location.search), go } };
  frame(); // with the page: the tabs go where the save button comes
  await draw(true);
  window.scrollTo(0, 0);
  view.querySelector("[data-start]")?.scrollIntoView();
  return undefined;
}

// `page.model` says what is shown, as plain data; it is drawn again when that has changed, and only then.
async function draw(first = false) {
  const { page, params } = shown;
  if (!page || (!first && !page.live)) return;
  const model = await page.model(params);
  if (page !== shown.page || params !== shown.params) return;
  const text = JSON.stringify(model);
  if (!first && (text === shown.text || pressed)) return;
  shown.text = text;
  const focused = first ? null : document.activeElement?.id;
  view.replaceChildren(...[page.view(model, params)].flat());
  document.title = `${page.title(model, params)} · ${t("app")}`;
  document.documentElement.dataset.ready = location.pathname;
  if (first) (view.querySelector("[autofocus]") ?? view.querySelector("h1"))?.focus?.({ preventScroll: true });
  else if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function frame() {
  const { theme, glove } = state.settings;
  document.documentElement.dataset.theme = theme;
  document.documentElement.dataset.glove = glove ? "1" : "0";
  strip(document.querySelector("#strip"));
  tabs(document.querySelector("#tabs"), location.pathname);
}

let delay = 2000;
let timer = 0;

async function trySending(now = false, held = false) {
  clearTimeout(timer);
  const outcome = await flush({ now, held });
  delay = outcome === "offline" || outcome === "server" ? Math.min(60000, delay * 2) : 2000;
  timer = setTimeout(() => trySending(), delay);
}

function watch() {
  onChange(async (news) => {
    if (news.outcome && news.outcome !== "idle" && news.outcome !== "busy") heard(news.outcome);
    await reload();
    if (news.send) trySending(true);
  });
  subscribe(() => { frame(); draw(); });
  const wake = () => { trySending(true); refresh(); };
  addEventListener("online", wake);
  addEventListener("offline", () => { state.contact = "offline"; changed(); });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) trySending(true, true); // in the pocket: no second thoughts
    else wake();
  });
  addEventListener("popstate", route);
  addEventListener("pointerdown", () => { pressed = true; });
  for (const name of ["pointerup", "pointercancel"]) addEventListener(name, () => setTimeout(() => { pressed = false; draw(); }, 50));
  addEventListener("click", (event) => {
    const anchor = event.target.closest?.("a[href]");
    if (!anchor || event.defaultPrevented || event.ctrlKey || event.metaKey || anchor.origin !== location.origin) return;
    if (!anchor.pathname.startsWith("/form")) return;
    event.preventDefault();
    go(anchor.href);
  });
  setInterval(() => { if (!document.hidden) refresh(); }, 30000);
}

async function register() {
  if (!("serviceWorker" in navigator)) return;
  const offer = (worker) => { state.update = worker; changed(); };
  navigator.serviceWorker.addEventListener("controllerchange", () => { if (state.update) location.reload(); });
  try {
    const registration = await navigator.serviceWorker.register("/form/worker.js", { type: "module", scope: "/form/", updateViaCache: "none" });
    if (registration.waiting && navigator.serviceWorker.controller) offer(registration.waiting);
    registration.addEventListener("updatefound", () => {
      const coming = registration.installing;
      coming.addEventListener("statechange", () => {
        if (coming.state === "installed" && navigator.serviceWorker.controller) offer(coming);
      });
    });
    setInterval(() => registration.update().catch(() => {}), 3600000);
    await navigator.serviceWorker.ready;
    state.offlineReady = true;
  } catch (error) {
    state.offlineProblem = error.message; // a certificate that was clicked away, for one
  }
  changed();
}

async function start() {
  try {
    await load();
  } catch (error) {
    view.replaceChildren(h("p", { class: "problem", role: "alert" }, `This browser keeps nothing (${error.message}).`),
      link("/", "button", "…"));
    throw error;
  }
  const spoken = useLanguage(state.settings.language ?? preferred());
  const fresh = refresh(); // beside the words: a slow link is asked once
  await spoken;
  watch();
  if (!state.boot) await fresh;
  await route();
  // Whoever opened the form anew has left the page on which the last verdict could be taken back.
  trySending(true, !location.pathname.startsWith("/form/saved/"));
  tidy();
  if (document.readyState === "complete") register();
  else addEventListener("load", register);
}

start();
