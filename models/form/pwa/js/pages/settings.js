// Language, gloves, light; who is told what; and how to leave this phone clean.

import { button, h, icon } from "../dom.js";
import { ask, NoAnswer } from "../api.js";
import { forgetEverything } from "../db.js";
import { guarded, head } from "../frame.js";
import { stateOf } from "../outbox.js";
import { refresh, setting, state } from "../state.js";
import { LANGUAGES, language, t, useLanguage } from "../texts.js";

export const live = true;
export const title = () => t("settings");

export function model() {
  const { settings, boot } = state;
  const unsent = state.things.filter((thing) => ["waiting", "refused"].includes(stateOf(thing))).length;
  return { ...settings, language, policy: boot?.policy?.text ?? "", host: boot?.name, of: boot?.host, unsent: unsent + state.drafts.length, enrolled: boot?.sign_in === "enrolled", me: boot?.me, offline: state.offlineReady || Boolean(navigator.serviceWorker?.controller) };
}

function choice(legend, name, options, current, set) {
  return h("fieldset", {}, h("legend", {}, legend), h("div", { class: Object.keys(options).length === 2 ? "tiles" : "three" }, Object.entries(options).map(([value, text]) => h("label", { class: "tile" },
    h("input", { type: "radio", name, value, id: `${name}-${value}`, checked: value === current, onchange: () => set(value) }), h("span", { class: "words" }, text)))));
}

function forget({ unsent, enrolled }) {
  const place = h("div", {});
  const wipe = async () => {
    if (enrolled) {
      try {
        await ask("POST", "/api/form/sign-out");
      } catch (error) {
        if (!(error instanceof NoAnswer)) throw error; // without a network the session ends on its own, or is revoked at the server
      }
    }
    await forgetEverything();
    for (const name of await globalThis.caches?.keys?.() ?? []) await caches.delete(name);
    for (const registration of await navigator.serviceWorker?.getRegistrations?.() ?? []) await registration.unregister();
    location.assign("/form/");
  };
  const sure = () => {
    place.replaceChildren(h("div", { class: "card", role: "alert" }, h("p", {}, unsent ? t("forget_unsent", { n: unsent }) : t("forget_clean")),
      button("wide danger", () => guarded(place, wipe), t("forget_yes")), button("wide quiet", () => place.replaceChildren(), t("cancel"))));
  };
  return h("div", {}, button("wide quiet", sure, icon("cross"), t("forget")), place);
}

export function view(shown) {
  const speak = async (code) => { await useLanguage(code); await setting({ language: code }); refresh(); };
  return [head(t("settings"), { back: "/form/more", under: shown.host ? shown.of === "agent" ? t("served_by_agent", { name: shown.host }) : t("served_by_server") : null }),
    choice(t("language"), "language", LANGUAGES, shown.language, speak),
    choice(t("theme"), "theme", { auto: t("theme_auto"), light: t("theme_light"), dark: t("theme_dark") }, shown.theme, (theme) => setting({ theme })),
    choice(t("glove"), "glove", { off: t("off"), on: t("on") }, shown.glove ? "on" : "off", (value) => setting({ glove: value === "on" })),
    shown.enrolled ? null : h("label", { class: "field" }, t("your_name"), h("input", { id: "my-name", type: "text", maxlength: "80", autocomplete: "name", value: shown.name, onchange: (event) => setting({ name: event.target.value.trim() }) })),
    h("p", { class: "card" }, t(shown.offline ? "offline_yes" : "offline_no")),
    shown.policy ? h("details", {}, h("summary", {}, t("policy")), h("p", {}, shown.policy)) : null,
    forget(shown)].filter(Boolean);
}
