// One question now and then, answered with one tap; or not.

import { button, h } from "../dom.js";
import { asThing, save } from "../outbox.js";
import { state } from "../state.js";
import { t } from "../texts.js";

export function satisfaction({ ask_id: id, text }) {
  if (state.things.some((thing) => thing.id === id)) return null;
  const place = h("section", { class: "card ask-one", "aria-label": t("one_question") }, h("p", { class: "question" }, text));
  const answer = async (score) => {
    await save(asThing("satisfaction", id, { score, at: new Date().toISOString() }));
    place.replaceChildren(h("p", { role: "status" }, t("thank_you")));
  };
  place.append(
    h("div", { class: "scale" }, [1, 2, 3, 4, 5].map((score) => button("square quiet", () => answer(score), String(score)))),
    h("div", { class: "ends soft" }, h("span", {}, t("not_at_all")), h("span", {}, t("very_much"))),
    button("wide quiet", () => answer(null), t("not_now")));
  return place;
}
