// It is on this phone; what happens now; ten seconds to take it back.

import { button, h, icon, link } from "../dom.js";
import { chip, guarded, head } from "../frame.js";
import { flush } from "../deliver.js";
import { HOLD_MS, isDue, release, stateOf, undo } from "../outbox.js";
import { alarms, reload, state } from "../state.js";
import { t } from "../texts.js";
import { faultText, verdictText } from "./machine.js";
import { satisfaction } from "./ask.js";

export const live = true;
export const title = () => t("saved");

function find(id) {
  return state.things.find((each) => each.id === id);
}

export function model({ id }) {
  const thing = find(id);
  if (!thing) return { gone: true };
  const { asset, verdict, fault, learn } = thing.body;
  const next = alarms().find((alarm) => alarm.open && !alarm.answered && alarm.event_id !== thing.body.event_id);
  return {
    asset, what: fault ? faultText(fault) : verdictText(learn === false ? "skip" : verdict), where: stateOf(thing), files: thing.files.length,
    undoable: !thing.started && !isDue(thing.held, Date.now(), HOLD_MS), host: state.boot?.host, judgement: thing.judgement,
    next: next && { id: next.event_id, asset: next.asset }, ask: state.boot?.satisfaction ?? null, reasons: thing.reasons,
  };
}

// Whoever goes on has no second thoughts: it may be sent.
export async function leave({ id }) {
  await release(id);
  flush({ now: true });
}

function undoButton(id, go) {
  const left = h("span", {}, t("undo"));
  const place = h("div", {});
  const take = button("wide quiet", () => guarded(place, async () => {
    const { body } = find(id);
    const key = body.answers ?? body.event_id ?? `report-${body.asset}`;
    const fields = {
      verdict: body.learn ? body.verdict : "skip", fault: body.fault ?? "", severity: body.severity ?? "", note: body.note, part: body.part_replaced,
      span: "now", confidence: body.interval_confidence === null ? "" : String(body.interval_confidence),
    };
    const draft = { ...pick(body), key, id: body.annotation_id, fields, at: Date.now(), answers: body.answers ?? null };
    if (!(await undo(id, draft))) return;
    await reload();
    go(body.answers ? `/form/q/${key}` : body.event_id ? `/form/a/${key}` : `/form/m/${encodeURIComponent(body.asset)}/report`, { replace: true });
  }), left);
  const ticking = setInterval(() => {
    const thing = find(id);
    if (!take.isConnected || !thing) return clearInterval(ticking);
    if (thing.started || isDue(thing.held, Date.now(), HOLD_MS)) {
      clearInterval(ticking);
      take.disabled = true;
      flush();
    } else left.textContent = t("undo_in", { n: Math.ceil((thing.held - Date.now()) / 1000) });
    return undefined;
  }, 250);
  return h("div", {}, take, place);
}

function pick({ trace_id, asset, event_id, supersedes, start, end }) {
  return { trace_id, asset, event_id, supersedes, start, end };
}

export function view(shown, { id, go }) {
  if (shown.gone) return [head(t("saved"), { back: "/form/" }), h("p", { class: "empty" }, t("not_here_text"))];
  const { asset, what, where, undoable, host, next, ask, judgement } = shown;
  const sentence = { waiting: "saved_waiting", sent: host === "agent" ? "saved_sent_agent" : "saved_sent", stored: "saved_stored", refused: "saved_refused" }[where];
  return [
    head(t("saved"), { under: asset }),
    h("div", { class: "done", "data-where": where }, h("div", { class: "tick" }, icon("tick")), h("p", { class: "what" }, what),
      chip(where, t(`is_${where}`)), h("p", {}, t(sentence)),
      judgement?.status ? h("p", { class: "soft" }, t(`judged_${judgement.status}`)) : null),
    undoable ? undoButton(id, go) : null,
    link(`/form/m/${encodeURIComponent(asset)}`, "button wide", t("back_to", { asset })),
    next ? link(`/form/m/${encodeURIComponent(next.asset)}`, "button wide quiet", t("next_alarm", { asset: next.asset })) : null,
    ask ? satisfaction(ask) : null,
  ].filter(Boolean);
}
