// One machine: open alarms with why, the verdict one tap away; a report without an alarm; maintenance.

import { button, h, icon, link } from "../dom.js";
import { newId } from "../ids.js";
import { chip, guarded, head } from "../frame.js";
import { act } from "../outbox.js";
import { plot } from "../plot.js";
import { alarms, asset, state } from "../state.js";
import { inWords, t, when } from "../texts.js";
import { machineState } from "./machines.js";

export const live = true;
export const title = (shown) => shown.id;

// Maintenance as this phone knows it: what it has said and not sent yet counts.
export function maintenance(id) {
  const said = state.things.filter((thing) => thing.kind === "action" && thing.body.asset === id && thing.state !== "refused");
  const last = said.find((thing) => thing.body.action.startsWith("maintenance_"));
  const known = asset(id);
  const host = { since: known?.maintenance_since ?? null, id: known?.maintenance_id ?? null };
  if (!last || (last.state !== "waiting" && last.made < state.bootAt)) return host;
  return last.body.action === "maintenance_start" ? { since: last.body.at, id: last.body.maintenance_id } : { since: null, id: null };
}

export function model({ asset: id }) {
  const known = asset(id);
  const open = alarms(id).filter((alarm) => alarm.open);
  const said = state.things.filter((thing) => thing.kind === "annotation" && thing.body.asset === id).slice(0, 5);
  return {
    id, known: known && { ...known, score: undefined, last_sample_at: undefined }, maintenance: maintenance(id),
    open: open.map(({ end, score, ...alarm }) => alarm), drafts: state.drafts.filter((draft) => draft.asset === id).map((draft) => draft.key),
    said: said.map(({ id: thing, state: where, body }) => ({ thing, where, verdict: body.verdict, fault: body.fault, made: body.made_at })),
    over: alarms(id).filter((alarm) => !alarm.open && !alarm.answered).slice(0, 3).map(({ event_id, opened_at, why }) => ({ event_id, opened_at, why: why[0] })),
  };
}

export function verdictTiles(address, drafted) {
  const one = (code, more = "") => link(`${address}?v=${code}`, `tile verdict ${code}${more}`, icon(code), h("span", { class: "words" }, verdictText(code)));
  return h("div", { class: "tiles" }, ["fault", "false_alarm", "unsure", "skip"].map((code) => one(code, drafted === code ? " chosen" : "")));
}

export function verdictText(code) {
  if (code === "skip") return t("do_not_learn");
  return inWords(state.boot?.taxonomy?.verdicts.find((term) => term.code === code)?.text, code);
}

export function faultText(code) {
  return inWords(state.boot?.taxonomy?.faults.find((term) => term.code === code)?.text, code);
}

export function why(alarm) {
  return h("ul", { class: "why" }, alarm.why.map((line, i) => h("li", { class: i ? "soft" : "first" }, line)));
}

function alarmCard(alarm, drafts) {
  const address = `/form/a/${alarm.event_id}`;
  return h("section", { class: "card alarm", "aria-label": t("alarm_since", { time: when(alarm.opened_at) }) },
    h("h2", {}, t("alarm_since", { time: when(alarm.opened_at) }), alarm.answered ? chip("idle", t("answered")) : null,
      alarm.acknowledged_by ? chip("idle", t("acknowledged")) : null),
    why(alarm), alarm.plot ? plot(alarm.plot) : null,
    drafts.includes(alarm.event_id) ? link(address, "button wide", t("go_on_draft")) : null,
    alarm.answered ? h("p", { class: "soft" }, t("answered_already")) : null,
    verdictTiles(address),
    link(`/form/work#${alarm.event_id}`, "quiet", t("more_actions"), icon("next")));
}

function maintenanceButton({ id, maintenance: { since, id: number } }) {
  const place = h("div", {});
  const start = () => guarded(place, () => act({ action: "maintenance_start", asset: id, maintenance_id: newId() }));
  const end = () => guarded(place, () => act({ action: "maintenance_end", asset: id, maintenance_id: number }));
  return h("div", {}, since ? h("p", { class: "soft" }, t("maintenance_since", { time: when(since) })) : null,
    button(since ? "wide warn" : "wide quiet", since ? end : start, icon("wrench"), t(since ? "maintenance_end" : "maintenance_start")), place);
}

export function view(shown) {
  const { id, known, open, drafts, said, over } = shown;
  if (!known) return [head(id, { back: "/form/" }), h("p", { class: "empty" }, t("unknown_machine", { id }))];
  return [
    head(id, {
      back: "/form/", under: [known.kind, known.hall, known.code && `${t("code")} ${known.code}`].filter(Boolean).join(" · "),
      chip: machineState({ n: open.filter((alarm) => !alarm.answered).length, since: shown.maintenance.since, state: known.state, alarm: known.alarm }),
    }),
    h("div", { class: "columns" },
      h("div", {}, open.length ? open.map((alarm) => alarmCard(alarm, drafts)) : h("p", { class: "empty" }, t("no_alarm"))),
      h("div", {},
        link(`/form/m/${encodeURIComponent(id)}/report`, "button wide", icon("ear"), t("i_hear_something")),
        maintenanceButton(shown),
        over.length ? [h("h2", {}, t("earlier_alarms")), h("ul", { class: "list" }, over.map((alarm) => h("li", {},
          link(`/form/a/${alarm.event_id}`, "card row", h("span", { class: "grow" }, h("strong", {}, when(alarm.opened_at)), h("span", { class: "soft" }, alarm.why)), icon("next")))))] : null,
        said.length ? [h("h2", {}, t("said_here")), h("ul", { class: "list" }, said.map((each) => h("li", { class: "card row" },
          h("span", { class: "grow" }, h("strong", {}, each.fault ? faultText(each.fault) : verdictText(each.verdict)), h("span", { class: "soft" }, when(each.made))),
          chip(each.where, t(`is_${each.where}`)))))] : null)),
  ];
}
