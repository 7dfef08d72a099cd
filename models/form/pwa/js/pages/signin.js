// Signing in once with a code from the office; a PIN as the lock of every day.

import { button, h } from "../dom.js";
import { ask, NoAnswer } from "../api.js";
import { flush } from "../deliver.js";
import { head } from "../frame.js";
import { refresh, setting, state } from "../state.js";
import { t } from "../texts.js";

export const live = true;
export const title = () => t("signing_in");

export function model() {
  const { boot, contact } = state;
  return { way: boot?.sign_in ?? "unknown", me: boot?.me ?? null, contact, name: state.settings.name };
}

// One field and one button; the answer's own words where it says no.
function entry({ label, name, action, hint, more = {}, done }) {
  const problem = h("div", { "aria-live": "assertive" });
  const field = h("input", { name, id: name, type: "text", autocomplete: "one-time-code", autocapitalize: "characters", spellcheck: "false", required: true, ...more });
  const submit = async (event) => {
    event.preventDefault();
    try {
      await done(field.value.trim());
    } catch (error) {
      if (!(error instanceof NoAnswer) && !(error instanceof Refused)) throw error;
      problem.replaceChildren(h("p", { class: "problem", role: "alert" }, error instanceof Refused ? error.message : t("needs_network")));
    }
  };
  return h("form", { class: "entry", onsubmit: submit }, h("label", { class: "field" }, label, field), hint ? h("p", { class: "soft" }, hint) : null, problem, h("button", { class: "wide" }, action));
}

class Refused extends Error {}

async function say(method, path, body) {
  const { status, said } = await ask(method, `/api/form/${path}`, body);
  if (status >= 300) {
    const known = t(`refused_${said.error?.code}`, { left: said.left });
    throw new Refused(known.startsWith("refused_") ? said.error?.message ?? String(status) : known);
  }
  await refresh();
  flush({ now: true });
}

const PIN = { inputmode: "numeric", pattern: "[0-9]{4,8}", minlength: "4", maxlength: "8", type: "password", autocomplete: "off" };

export function view({ way, me, contact, name }, { go }) {
  const title2 = head(t("signing_in"), { back: "/form/more" });
  const home = () => go("/form/", { replace: true });
  if (way === "none") {
    return [title2, entry({ label: t("your_name"), name: "name", action: t("save"), hint: t("name_hint"), more: { value: name, maxlength: "80", autocomplete: "name", autocapitalize: "words" },
      done: async (value) => { await setting({ name: value }); await home(); } })];
  }
  if (contact === "locked") {
    return [title2, entry({ label: t("pin"), name: "pin", action: t("unlock"), more: { ...PIN, autofocus: true }, done: async (pin) => { await say("POST", "unlock", { pin }); await home(); } })];
  }
  if (me && contact !== "signin") {
    const pin = entry({ label: t(me.pin ? "new_pin" : "choose_pin"), name: "pin", action: t("set_pin"), hint: t("pin_hint"), more: PIN,
      done: (value) => say("PUT", "pin", { pin: value, old: document.querySelector("#old-pin")?.value ?? null }) });
    if (me.pin) pin.prepend(h("label", { class: "field" }, t("old_pin"), h("input", { id: "old-pin", ...PIN })));
    return [title2, h("p", { class: "card" }, t("signed_in_as", { name: me.name })), pin,
      me.pin ? button("wide quiet", () => say("POST", "lock", {}), t("lock_now")) : null].filter(Boolean);
  }
  return [title2, entry({ label: t("enrol_code"), name: "code", action: t("sign_in"), hint: t("enrol_hint"), more: { value: decodeURIComponent(location.hash.slice(1)), autofocus: true },
    done: async (code) => { await say("POST", "enrol", { code: code.toUpperCase() }); history.replaceState(null, "", "/form/sign-in"); await home(); } })];
}
