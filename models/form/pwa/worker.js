// The server writes VERSION and FILES = [[path, sha256], ...] above this line, from what it really serves: when one byte of the
// form changes, this text does, too, and browsers fetch the new one. A new version waits until the person says so.

import { flush } from "./js/deliver.js";

const CACHE = `pdm-form-${VERSION}`;
const SHELL = "/form/";
let opened = null; // once, not for each of a page's files

async function fetched(path, sha256) {
  for (const cache of ["no-cache", "reload"]) { // first asks whether ours is current; a cache that lies is passed by
    const answer = await fetch(path, { cache });
    const bytes = await answer.clone().arrayBuffer();
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const hex = [...digest].map((b) => b.toString(16).padStart(2, "0")).join("");
    if (answer.ok && hex === sha256) return answer;
  }
  throw new Error(`${path} is not the file of this version`); // half old, half new is worse than old
}

self.addEventListener("install", (event) => {
  event.waitUntil((async () => {
    const cache = await caches.open(CACHE);
    for (let i = 0; i < FILES.length; i += 4) { // a few at a time: a slow link has people on it
      await Promise.all(FILES.slice(i, i + 4).map(async ([path, sha256]) => cache.put(path, await fetched(path, sha256))));
    }
  })());
});

self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) if (name.startsWith("pdm-form-") && name !== CACHE) await caches.delete(name);
    await self.clients.claim();
  })());
});

self.addEventListener("fetch", (event) => {
  const { method, mode, url } = event.request;
  const { origin, pathname } = new URL(url);
  if (method !== "GET" || origin !== location.origin || !pathname.startsWith(SHELL)) return;
  const path = mode === "navigate" ? SHELL : pathname;
  event.respondWith((async () => {
    opened ??= caches.open(CACHE);
    return (await (await opened).match(path)) ?? fetch(event.request);
  })());
});

// Background Sync, where it exists: also with no page open. Throwing asks the browser to try again later.
self.addEventListener("sync", (event) => {
  event.waitUntil((async () => {
    const pages = await self.clients.matchAll({ includeUncontrolled: true });
    const looked = pages.some((page) => page.visibilityState === "visible" && new URL(page.url).pathname.startsWith(SHELL));
    const outcome = await flush({ now: true, held: !looked });
    if (outcome === "offline" || outcome === "server") throw new Error(outcome);
  })());
});

self.addEventListener("message", (event) => {
  if (event.data === "activate") self.skipWaiting();
});
