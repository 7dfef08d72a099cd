// Around every page: the strip on top (is there a network, what waits, how old is this) and the tabs at the thumb.

import { button, h, icon, link } from "./dom.js";
import { counts } from "./outbox.js";
import { changed, state } from "./state.js";
import { clock, span, t, when } from "./texts.js";

const CLOCK_OFF_MS = 120000;
const UNDER_MORE = /^\/form\/(outcomes|questions|settings|sign-in|enrol)$/;
const TABS = [["/form/", "machines"], ["/form/work", "work"], ["/form/outbox", "outbox"], ["/form/more", "more"]];

function age() {
  if (!state.bootAt) return null;
  const text = new Date(state.bootAt).toDateString() === new Date().toDateString() ? clock(state.bootAt) : when(state.bootAt);
  return t("data_of", { time: text });
}

function summary() {
  const { waiting, refused } = counts(state.things);
  return [t(`contact_${state.contact}`), waiting ? t("n_waiting", { n: waiting }) : null,
    refused ? t("n_refused", { n: refused }) : null, age()].filter(Boolean).join(" · ");
}

function notices() {
  const found = [];
  if (state.update) {
    const take = () => { state.update.postMessage("activate"); };
    found.push(["update", t("update_ready"), button("small", take, t("update_take"))]);
  }
  if (state.contact === "signin") found.push(["signin", t("signin_needed"), link("/form/sign-in", "button small", t("sign_in"))]);
  if (state.contact === "locked") found.push(["locked", t("locked"), link("/form/sign-in", "button small", t("unlock"))]);
  if (!isSecureContext) found.push(["insecure", t("no_https"), null]);
  else if (state.offlineProblem) found.push(["insecure", t("no_offline"), null]);
  if (state.full) found.push(["full", t("phone_full"), link("/form/outbox", "button small", t("make_room"))]);
  if (Math.abs(state.clockOff) > CLOCK_OFF_MS) found.push(["clock", t("clock_off", { by: span(state.clockOff) }), null]);
  return found;
}

let said = "";

export function strip(element) {
  const found = notices();
  const text = JSON.stringify([summary(), found.map(([name, words]) => [name, words])]);
  if (text === said) return; // a screen reader reads each change aloud
  said = text;
  const { waiting } = counts(state.things);
  element.replaceChildren(
    h("a", { href: "/form/outbox", class: "state", "data-contact": state.contact, "data-waiting": waiting },
      h("span", { class: "dot", "aria-hidden": "true" }), h("span", {}, summary())),
    ...found.map(([name, words, action]) => h("div", { class: "notice", "data-notice": name }, h("span", {}, words), action)));
}

export function tabs(element, path) {
  const { waiting, refused } = counts(state.things);
  const here = UNDER_MORE.test(path) ? "/form/more" : TABS.findLast(([href]) => path.startsWith(href))?.[0];
  element.hidden = /^\/form\/(a|q|again)\/|\/report$/.test(path); // the save button stands there
  element.setAttribute("aria-label", t("tabs"));
  element.replaceChildren(...TABS.map(([href, name]) => h("a", { href, "aria-current": href === here ? "page" : null },
    icon(name), h("span", {}, t(`tab_${name}`)),
    name === "outbox" && waiting + refused > 0 ? h("span", { class: refused ? "badge bad" : "badge" }, waiting + refused) : null)));
}

export function head(title, { back = null, under = null, chip = null } = {}) {
  return h("header", { class: "head" },
    back ? link(back, "back", icon("back"), h("span", { class: "hidden" }, t("back"))) : null,
    h("div", {}, h("h1", { tabindex: "-1" }, title), under ? h("p", { class: "soft" }, under) : null), chip);
}

export function chip(kind, text) {
  return h("span", { class: `chip ${kind}` }, text);
}

// Errors of the store, said where the person looks; what was filled in stays on the screen.
export async function guarded(place, work) {
  try {
    const result = await work();
    if (state.full) { state.full = false; changed(); }
    return result;
  } catch (error) {
    const full = error.name === "QuotaExceededError";
    if (full) { state.full = true; changed(); }
    place.replaceChildren(h("p", { class: "problem", role: "alert" }, full ? t("not_saved_full") : t("not_saved", { why: error.message })));
    return undefined;
  }
}
