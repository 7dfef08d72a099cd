// Everything that was said on this phone and where it is now; what was refused, and why.

import { button, h, icon, link } from "../dom.js";
import { flush } from "../deliver.js";
import { chip, head } from "../frame.js";
import { counts, stateOf, tidy } from "../outbox.js";
import { state } from "../state.js";
import { t, when } from "../texts.js";
import { faultText, verdictText } from "./machine.js";

export const live = true;
export const title = () => t("outbox");

function what({ kind, body }) {
  if (kind === "annotation") return body.fault ? faultText(body.fault) : verdictText(body.learn === false ? "skip" : body.verdict);
  if (kind === "action") return t(`action_${body.action}`);
  return t(`kind_${kind}`);
}

export async function model() {
  const { usage, quota } = (await navigator.storage?.estimate?.().catch(() => null)) ?? {};
  const persisted = await navigator.storage?.persisted?.().catch(() => null) ?? null;
  return {
    counts: counts(state.things), contact: state.contact, host: state.boot?.host, persisted,
    used: usage === undefined ? null : Math.round(usage / 2 ** 20), room: quota ? Math.round((quota - usage) / 2 ** 20) : null,
    drafts: state.drafts.map(({ key, asset, at, answers, event_id, nFiles }) => ({ key, asset, at, answers, event_id, nFiles })),
    things: state.things.map((thing) => ({
      id: thing.id, kind: thing.kind, where: stateOf(thing), what: what(thing), asset: thing.body.asset ?? "", made: thing.made, problem: thing.problem,
      reasons: thing.reasons, files: thing.files.map((file) => [file.state, file.reason ?? ""]), judgement: thing.judgement, tries: thing.tries,
      outcome: state.boot?.outcomes.find((each) => each.annotation_id === thing.id)?.text,
    })),
  };
}

export function draftAddress({ key, asset, answers, event_id }) {
  if (key.startsWith("again-")) return `/form/again/${key.slice(6)}`;
  if (answers) return `/form/q/${key}`;
  return event_id ? `/form/a/${key}` : `/form/m/${encodeURIComponent(asset)}/report`;
}

function problemText({ problem }) {
  const known = t(`problem_${problem}`);
  return known === `problem_${problem}` ? t("problem_other", { code: problem }) : known;
}

function row(thing) {
  const files = thing.files.filter(([where]) => where !== "sent");
  return h("li", { class: "card", "data-id": thing.id, "data-where": thing.where },
    h("div", { class: "row" }, h("span", { class: "grow" }, h("strong", {}, thing.what), h("span", { class: "soft" }, [thing.asset, when(thing.made)].filter(Boolean).join(" · "))),
      chip(thing.where, t(`is_${thing.where}`))),
    thing.where === "waiting" && thing.problem ? h("p", { class: "soft" }, problemText(thing)) : null,
    thing.reasons.map(({ field, reason }) => h("p", { class: "problem" }, field ? `${field}: ${reason}` : reason)),
    files.map(([where, reason]) => h("p", { class: "soft" }, `${t(`file_${where}`)} ${reason}`)),
    thing.judgement?.status ? h("p", { class: "soft" }, thing.outcome ?? t(`judged_${thing.judgement.status}`)) : null,
    thing.kind === "annotation" && thing.where !== "waiting" ? link(`/form/again/${thing.id}`, "quiet", t("correct"), icon("next")) : null);
}

export function view({ counts: n, drafts, things, persisted, room, host }) {
  const send = button("wide", () => flush({ now: true }), icon("outbox"), t("send_now"));
  const parts = [["waiting", "refused"], ["sent", "stored"]].map((states) => things.filter((thing) => states.includes(thing.where)));
  return [
    head(t("outbox"), { under: t(host === "agent" ? "outbox_agent" : "outbox_server") }),
    h("ul", { class: "numbers" }, ["waiting", "sent", "stored", "refused"].map((name) => h("li", { "data-count": name }, h("strong", {}, n[name]), h("span", {}, t(`is_${name}`))))),
    n.waiting ? send : null,
    drafts.length ? [h("h2", {}, t("drafts")), h("ul", { class: "list" }, drafts.map((draft) => h("li", {},
      link(draftAddress(draft), "card row", h("span", { class: "grow" }, h("strong", {}, draft.asset), h("span", { class: "soft" }, t("draft_of", { time: when(draft.at) }))), chip("idle", t("is_draft")), icon("next")))))] : null,
    parts[0].length ? [h("h2", {}, t("not_there_yet")), h("ul", { class: "list" }, parts[0].map(row))] : null,
    parts[1].length ? [h("h2", {}, t("there")), h("ul", { class: "list" }, parts[1].map(row))] : null,
    things.length + drafts.length ? null : h("p", { class: "empty" }, t("nothing_said")),
    h("p", { class: "soft" }, [t(persisted === null ? "persist_unknown" : persisted ? "persist_yes" : "persist_no"), room === null ? "" : t("room_left", { mb: room })].filter(Boolean).join(" ")),
    state.full || n.stored ? button("wide quiet", () => tidy(Date.now(), -1), t("remove_stored")) : null,
  ].flat().filter(Boolean);
}
