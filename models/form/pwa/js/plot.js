// The window that alarmed over a normal one of the same machine, drawn here from at most 120 points each.

import { h, svg } from "./dom.js";
import { t } from "./texts.js";

const WIDTH = 320;
const HEIGHT = 96;

function line(values, low, scale, cls) {
  const step = WIDTH / Math.max(1, values.length - 1);
  const points = values.map((value, i) => `${(i * step).toFixed(1)},${(HEIGHT - (value - low) * scale).toFixed(1)}`);
  return svg("polyline", { class: cls, points: points.join(" "), "vector-effect": "non-scaling-stroke" });
}

export function plot({ signal, unit: plain, seconds, values, normal }) {
  const unit = plain?.replace("s2", "s²");
  const everything = [...values, ...normal];
  const low = Math.min(...everything);
  const high = Math.max(...everything);
  const scale = HEIGHT / (high - low || 1);
  const swing = (points) => (points.length ? (Math.max(...points) - Math.min(...points)).toPrecision(2) : "?");
  const label = t("plot_says", { signal, unit, now: swing(values), usual: swing(normal) });
  return h("figure", { class: "plot" },
    svg("svg", { viewBox: `0 -4 ${WIDTH} ${HEIGHT + 8}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
      line(normal, low, scale, "normal"), line(values, low, scale, "now")),
    h("figcaption", {},
      h("span", { class: "key now" }, t("plot_now")), normal.length ? h("span", { class: "key normal" }, t("plot_normal")) : null,
      h("span", { class: "soft" }, `${signal}${unit && unit !== "1" ? `, ${unit}` : ""}, ${Number(seconds.toPrecision(3))} s`)));
}
