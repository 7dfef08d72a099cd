// The work list: what needs somebody first, and why it stands where it stands.

import { button, h, icon, link } from "../dom.js";
import { chip, guarded, head } from "../frame.js";
import { act } from "../outbox.js";
import { alarms, author, state } from "../state.js";
import { span, t, when } from "../texts.js";
import { why } from "./machine.js";

export const live = true;
export const title = () => t("work");
const SNOOZES = { hour: 1, shift: 8, day: 24 };

// What was said here counts before the host knows it.
function withMine(alarm) {
  const mine = state.things.filter((thing) => thing.kind === "action" && thing.body.event_id === alarm.event_id
    && (thing.state === "waiting" || thing.made > state.bootAt) && thing.state !== "refused").reverse();
  const changes = { acknowledge: () => ({ acknowledged_by: author() }), assign: (body) => ({ assigned_to: body.to }), snooze: (body) => ({ snoozed_until: body.until }), comment: () => ({ comments: alarm.comments + 1 }) };
  return Object.assign({ ...alarm }, ...mine.map(({ body }) => changes[body.action]?.(body) ?? {}));
}

// Points, and the words for them. The host's own order comes first where it gives one.
export function need(alarm, now) {
  const reasons = [];
  let points = alarm.score * 40;
  const open = now - Date.parse(alarm.opened_at);
  reasons.push([t("reason_score", { score: alarm.score.toFixed(2) }), 0]);
  if (open > 3600000) reasons.push([t("reason_open", { time: span(open) }), Math.min(20, open / 3600000)]);
  if (!alarm.acknowledged_by && !alarm.answered) reasons.push([t("reason_nobody"), 20]);
  if (alarm.assigned_to && alarm.assigned_to === author()) reasons.push([t("reason_mine"), 15]);
  else if (alarm.assigned_to) reasons.push([t("reason_theirs"), -15]);
  if (alarm.answered) reasons.push([t("answered"), -30]);
  if (alarm.snoozed_until && Date.parse(alarm.snoozed_until) > now) reasons.push([t("reason_snoozed", { time: when(alarm.snoozed_until) }), -60]);
  for (const [, each] of reasons) points += each;
  return { points: alarm.priority ?? points, reasons: alarm.reasons ?? reasons.map(([text]) => text) };
}

export function model() {
  const now = Date.now() + state.clockOff;
  const list = alarms().filter((alarm) => alarm.open).map(withMine).map((alarm) => ({ ...alarm, ...need(alarm, now) }));
  list.sort((a, b) => b.points - a.points);
  return { me: author(), at: location.hash.slice(1), list: list.map(({ points, plot, end, score, drivers, ...alarm }) => alarm) };
}

function actions(alarm, me) {
  const { event_id } = alarm;
  const place = h("div", {});
  const say = (body) => guarded(place, () => act({ event_id, ...body }));
  const until = (hours) => new Date(Date.now() + state.clockOff + hours * 3600000).toISOString();
  const words = h("textarea", { rows: "2", maxlength: "500", "aria-label": t("comment"), id: `say-${event_id}` });
  const send = async () => {
    const text = words.value.trim();
    if (text && (await say({ action: "comment", text }))) words.value = "";
  };
  return [h("div", { class: "pair" },
    button("quiet", () => say({ action: "acknowledge" }), icon("tick"), t(alarm.acknowledged_by ? "acknowledged" : "acknowledge")),
    button("quiet", () => say({ action: "assign", to: me }), icon("person"), t(alarm.assigned_to === me && me ? "mine" : "take_it"))),
  h("details", { id: `more-${event_id}` }, h("summary", {}, t("snooze_comment")),
    h("div", { class: "three" }, Object.entries(SNOOZES).map(([name, hours]) => button("quiet", () => say({ action: "snooze", until: until(hours) }), icon("clock"), t(`snooze_${name}`)))),
    words, button("wide quiet", send, icon("comment"), t("comment_send")), button("wide quiet", () => say({ action: "dismiss" }), icon("cross"), t("dismiss"))), place];
}

function card(alarm, rank, me) {
  return h("li", { class: "card alarm", id: alarm.event_id },
    h("div", { class: "row" }, h("span", { class: "rank", "aria-hidden": "true" }, rank), h("h2", { class: "grow" }, alarm.asset),
      alarm.acknowledged_by ? chip("idle", t("acknowledged")) : null, alarm.comments ? chip("idle", t("n_comments", { n: alarm.comments })) : null),
    h("ul", { class: "reasons" }, alarm.reasons.map((reason) => h("li", {}, reason))), why(alarm),
    link(`/form/a/${alarm.event_id}`, "button wide", t("say_what_it_was")), actions(alarm, me));
}

export function view({ list, me }) {
  return [head(t("work"), { under: t("work_under") }),
    list.length ? h("ol", { class: "list" }, list.map((alarm, i) => card(alarm, i + 1, me))) : h("p", { class: "empty" }, t("no_work"))];
}
