// My machines: what needs somebody first; by hall, by name, by the short code on the plate.

import { h, icon, link } from "../dom.js";
import { chip, head } from "../frame.js";
import { alarms, changed, setting, state } from "../state.js";
import { t } from "../texts.js";

export const live = true;
let search = "";

export const title = () => t("machines");

export function model() {
  const { boot, settings, drafts } = state;
  const open = alarms().filter((alarm) => alarm.open && !alarm.answered);
  const halls = [...new Set((boot?.assets ?? []).map((asset) => asset.hall).filter(Boolean))].sort();
  const hall = halls.includes(settings.hall) ? settings.hall : "";
  const words = search.trim().toLowerCase();
  const assets = (boot?.assets ?? [])
    .filter((asset) => !hall || asset.hall === hall)
    .filter((asset) => !words || [asset.id, asset.kind, asset.hall, asset.code].some((text) => text.toLowerCase().includes(words)))
    .map(({ id, kind, hall, state, alarm, maintenance_since: since }) => ({
      id, kind, hall, state, alarm, since, n: open.filter((each) => each.asset === id).length,
      draft: drafts.some((draft) => draft.asset === id),
    }))
    .sort((a, b) => b.n - a.n || b.alarm - a.alarm || a.id.localeCompare(b.id));
  return { name: boot?.name ?? "", questions: boot?.questions.length ?? 0, halls, hall, assets, left: boot?.left_out?.assets ?? 0, any: Boolean(boot), signedOut: state.contact === "signin" };
}

export function machineState({ n, since, state, alarm }) {
  if (n) return chip("bad", t("n_alarms", { n }));
  if (since) return chip("wait", t("in_maintenance"));
  if (alarm) return chip("idle", t("answered"));
  return chip({ scoring: "good", silent: "bad", learning: "wait" }[state] ?? "idle", t(`state_${state}`));
}

function card(asset) {
  return h("li", {}, link(`/form/m/${encodeURIComponent(asset.id)}`, asset.n ? "card row alarm" : "card row",
    h("span", { class: "grow" }, h("strong", {}, asset.id),
      h("span", { class: "soft" }, [asset.kind, asset.hall].filter(Boolean).join(" · ")),
      asset.draft ? h("span", { class: "soft" }, t("has_draft")) : null),
    machineState(asset), icon("next")));
}

function filters({ halls, hall }) {
  const pick = (name) => h("button", {
    type: "button", class: "pick", id: `hall-${name}`, "aria-pressed": String(hall === name), onclick: () => setting({ hall: name }),
  }, name || t("all_halls"));
  return halls.length > 1 ? h("div", { class: "picks", role: "group", "aria-label": t("hall") }, ["", ...halls].map(pick)) : null;
}

export function view(shown) {
  const find = h("input", {
    id: "search", type: "search", value: search, placeholder: t("search"), "aria-label": t("search"), autocomplete: "off",
    oninput: (event) => { search = event.target.value; changed(); },
  });
  const list = shown.assets.length ? h("ul", { class: "list" }, shown.assets.map(card))
    : h("p", { class: "empty" }, shown.any ? (shown.signedOut ? t("sign_in_first") : t("no_machines")) : t("never_online"));
  const canScan = "BarcodeDetector" in globalThis;
  return [
    head(t("machines"), { under: shown.name }),
    h("div", { class: "find" }, find,
      canScan ? link("/form/scan", "square", icon("scan"), h("span", { class: "hidden" }, t("scan"))) : null,
      link("/form/code", "square", icon("code"), h("span", { class: "hidden" }, t("by_code")))),
    filters(shown),
    shown.questions ? link("/form/questions", "card row ask", icon("question"), h("span", { class: "grow" }, t("n_questions", { n: shown.questions })), icon("next")) : null,
    list,
    shown.left ? h("p", { class: "soft" }, t("left_out", { n: shown.left })) : null,
  ].filter(Boolean);
}
