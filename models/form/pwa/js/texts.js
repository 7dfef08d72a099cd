// Words come from texts/<language>.json; a language is added by adding a file and its code here.

export const LANGUAGES = { en: "English", de: "Deutsch" };
let words = {};
let plural = new Intl.PluralRules("en");
export let language = "en";

export function preferred() {
  const asked = new URLSearchParams(location.search).get("lang");
  return [asked, ...navigator.languages].map((code) => code?.slice(0, 2)).find((code) => code in LANGUAGES) ?? "en";
}

export async function useLanguage(code) {
  language = code; // at once: what is asked meanwhile is asked in it
  const answer = await fetch(`/form/texts/${code}.json`);
  words = await answer.json();
  plural = new Intl.PluralRules(code);
  document.documentElement.lang = code;
}

// "{n} waiting", with name_one and name_other where the number matters.
export function t(name, facts = {}) {
  const form = "n" in facts ? `${name}_${plural.select(facts.n)}` : name;
  const text = words[form] ?? words[`${name}_other`] ?? words[name] ?? name;
  return text.replace(/\{(\w+)\}/g, (_, fact) => facts[fact] ?? "");
}

export function has(name) {
  return name in words;
}

// A term of the taxonomy, in this language or in the first that it has.
export function inWords(texts, fallback = "") {
  return texts?.[language] ?? texts?.en ?? fallback;
}

// As this phone writes times: 22:15 or 10:15 PM.
function locale() {
  return navigator.languages.find((code) => code.startsWith(language)) ?? language;
}

export function clock(moment) {
  return new Intl.DateTimeFormat(locale(), { hour: "2-digit", minute: "2-digit" }).format(new Date(moment));
}

export function day(moment) {
  return new Intl.DateTimeFormat(locale(), { weekday: "short", day: "numeric", month: "short" }).format(new Date(moment));
}

// The time of today, else with its day.
export function when(moment) {
  const date = new Date(moment);
  return date.toDateString() === new Date().toDateString() ? clock(date) : `${day(date)}, ${clock(date)}`;
}

export function span(ms) {
  const minutes = Math.round(Math.abs(ms) / 60000);
  if (minutes < 90) return t("minutes", { n: minutes });
  const hours = Math.round(minutes / 60);
  return hours < 48 ? t("hours", { n: hours }) : t("days", { n: Math.round(hours / 24) });
}
