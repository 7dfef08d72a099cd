// "Please look at ...": few, and each can be declined with a reason.

import { button, h, icon, link } from "../dom.js";
import { guarded, head } from "../frame.js";
import { asThing, save } from "../outbox.js";
import { state } from "../state.js";
import { t, when } from "../texts.js";

export const live = true;
export const title = () => t("questions");

export function model() {
  const done = new Set(state.things.flatMap((thing) => (thing.kind === "question" ? [thing.id] : [thing.body.answers])));
  return { list: (state.boot?.questions ?? []).filter((each) => !done.has(each.question_id)) };
}

function row(each) {
  const place = h("div", {});
  const reasons = ["cannot_reach", "cannot_locked", "cannot_remember"];
  const decline = (text) => guarded(place, () => save(asThing("question", each.question_id, { cannot: text, at: new Date().toISOString() })));
  return h("li", { class: "card" },
    h("p", { class: "question" }, each.text), h("p", { class: "soft" }, `${when(each.start)} – ${when(each.end)}`),
    each.blind ? h("p", { class: "soft" }, t("asked_blind")) : null,
    link(`/form/q/${each.question_id}`, "button wide", t("answer")),
    h("details", {}, h("summary", {}, t("cannot")), reasons.map((name) => button("wide quiet", () => decline(t(name)), t(name)))), place);
}

export function view({ list }) {
  return [head(t("questions"), { back: "/form/more", under: t("questions_under") }),
    list.length ? h("ul", { class: "list" }, list.map(row)) : h("p", { class: "empty" }, t("no_questions"))];
}
