// The short number on the machine's plate, for gloves and for phones that can not scan.

import { button, h, icon, link } from "../dom.js";
import { head } from "../frame.js";
import { changed, state } from "../state.js";
import { t } from "../texts.js";

export const live = true;
export const title = () => t("by_code");
let typed = "";

export function model() {
  const list = typed ? (state.boot?.assets ?? []).filter((asset) => asset.code.startsWith(typed)) : [];
  return { typed, list: list.slice(0, 4).map(({ id, kind, hall, code }) => ({ id, kind, hall, code })) };
}

function press(key) {
  typed = key === "back" ? typed.slice(0, -1) : (typed + key).slice(0, 12);
  changed();
}

export function view({ list }) {
  const key = (name) => h("button", { type: "button", id: `key-${name}`, class: "digit", onclick: () => press(name) }, name);
  return [head(t("by_code"), { back: "/form/" }),
    h("output", { class: "typed", "aria-label": t("code") }, typed || "·····"),
    h("div", { class: "pad" }, ["1", "2", "3", "4", "5", "6", "7", "8", "9"].map(key),
      h("span", {}), key("0"), h("button", { type: "button", id: "key-back", class: "digit quiet", onclick: () => press("back") }, icon("back"), h("span", { class: "hidden" }, t("delete_digit")))),
    h("div", { "aria-live": "polite" }, typed && !list.length ? h("p", { class: "empty" }, t("no_such_code")) : null,
      h("ul", { class: "list" }, list.map((asset) => h("li", {}, link(`/form/m/${encodeURIComponent(asset.id)}`, "card row",
        h("span", { class: "grow" }, h("strong", {}, asset.id), h("span", { class: "soft" }, [asset.code, asset.kind, asset.hall].filter(Boolean).join(" · "))), icon("next"))))))];
}

export function leave() {
  typed = "";
}
