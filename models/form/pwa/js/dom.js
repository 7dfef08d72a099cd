// Elements from code: what people wrote becomes text, never HTML, and no inline style or script is needed.

import { PATHS } from "./icons.js";

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (["value", "checked", "disabled", "hidden"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function icon(name) {
  return svg("svg", { class: `icon icon-${name}`, viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" },
    svg("path", { d: PATHS[name] ?? PATHS.other }));
}

// A link that looks like a button; `go` in app.js takes it over.
export function link(href, cls, ...children) {
  return h("a", { href, class: cls }, ...children);
}

export function button(cls, onclick, ...children) {
  return h("button", { type: "button", class: cls, onclick }, ...children);
}

// A radio button as a tile: the whole tile is the target, keyboard and screen reader see a plain radio group.
export function tile({ name, value, checked, text, guide, picture }) {
  return h("label", { class: "tile" },
    h("input", { type: "radio", name, value, checked }),
    picture && icon(picture),
    h("span", { class: "words" }, h("span", {}, text), guide && h("small", {}, guide)));
}

export function tiles(legend, cls, options, after = null) {
  return h("fieldset", { class: cls }, h("legend", {}, legend), h("div", { class: "tiles" }, options.map(tile)), after);
}
