// Photo and sound. A photo is drawn again on a canvas: at most 1280 px, and by that without place, time and camera (EXIF).

import { button, h, icon } from "../dom.js";
import { sha256 } from "../ids.js";
import { state } from "../state.js";
import { t } from "../texts.js";

const EDGE = 1280; // px
const LARGEST = 64 * 2 ** 20; // bytes of what the camera made
const SOUND_MS = 15000;

async function drawn(file) {
  if (file.size > LARGEST) throw new Error(t("photo_too_large"));
  const picture = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => { throw new Error(t("not_a_photo")); });
  const scale = Math.min(1, EDGE / Math.max(picture.width, picture.height));
  const canvas = h("canvas", { width: Math.max(1, Math.round(picture.width * scale)), height: Math.max(1, Math.round(picture.height * scale)) });
  const paper = canvas.getContext("2d");
  paper.fillStyle = "#fff"; // JPEG knows no transparency
  paper.fillRect(0, 0, canvas.width, canvas.height);
  paper.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  const blob = await new Promise((resolve) => { canvas.toBlob(resolve, "image/jpeg", 0.8); });
  return { bytes: await blob.arrayBuffer(), media_type: "image/jpeg" };
}

async function recorded(onTick, stopped) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  const type = ["audio/webm", "audio/mp4", "audio/ogg"].find((each) => MediaRecorder.isTypeSupported(each));
  const recorder = new MediaRecorder(stream, type ? { mimeType: type } : {});
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const ended = new Promise((resolve, reject) => { recorder.onstop = resolve; recorder.onerror = (event) => reject(event.error); });
  recorder.start(1000);
  const began = performance.now();
  const ticking = setInterval(() => onTick(Math.max(0, Math.ceil((SOUND_MS - (performance.now() - began)) / 1000))), 250);
  await Promise.race([stopped, new Promise((resolve) => { setTimeout(resolve, SOUND_MS); }), ended]);
  clearInterval(ticking);
  if (recorder.state !== "inactive") recorder.stop();
  await ended;
  stream.getTracks().forEach((track) => track.stop());
  return { bytes: await new Blob(parts).arrayBuffer(), media_type: recorder.mimeType.split(";")[0] };
}

async function thumbnail(bytes) {
  const canvas = h("canvas", { width: 96, height: 96, role: "img", "aria-label": t("photo") });
  const picture = await createImageBitmap(new Blob([bytes]));
  const side = Math.min(picture.width, picture.height);
  canvas.getContext("2d").drawImage(picture, (picture.width - side) / 2, (picture.height - side) / 2, side, side, 0, 0, 96, 96);
  return canvas;
}

export function attachments(draft, changed, problem) {
  const list = h("ul", { class: "attached" });
  const most = state.boot?.limits?.attachments ?? 4;

  async function show() {
    const rows = await Promise.all(draft.files.map(async (file) => h("li", {},
      file.media_type.startsWith("image/") ? await thumbnail(file.bytes).catch(() => icon("camera")) : icon("microphone"),
      h("span", { class: "grow" }, `${Math.ceil(file.size / 1024)} kB`),
      button("square quiet", () => { draft.files = draft.files.filter((each) => each !== file); show(); changed(); }, icon("cross"), h("span", { class: "hidden" }, t("remove"))))));
    list.replaceChildren(...rows);
  }

  async function add(make) {
    try {
      if (draft.files.length >= most) throw new Error(t("too_many_files", { n: most }));
      const made = await make();
      const largest = state.boot?.limits?.attachment_bytes ?? 2 ** 23;
      if (made.bytes.byteLength > largest) throw new Error(t("photo_too_large"));
      const file = { ...made, size: made.bytes.byteLength, sha256: await sha256(made.bytes) };
      if (!draft.files.some((each) => each.sha256 === file.sha256)) draft.files.push(file);
      await show();
      await changed();
    } catch (error) {
      problem.replaceChildren(h("p", { class: "problem", role: "alert" }, error.message));
    }
  }

  if (!isSecureContext) return h("p", { class: "soft" }, t("no_files_without_https"));
  const photo = h("input", {
    type: "file", name: "photo", accept: "image/*", capture: "environment", class: "cover",
    onchange: (event) => { const [file] = event.target.files; event.target.value = ""; if (file) add(() => drawn(file)); },
  });
  let stop = null;
  const words = h("span", {}, t("sound"));
  const sound = button("wide quiet", () => {
    if (stop) return stop();
    const stopped = new Promise((resolve) => { stop = resolve; });
    return add(() => recorded((left) => { words.textContent = t("recording", { n: left }); }, stopped))
      .finally(() => { stop = null; words.textContent = t("sound"); });
  }, icon("microphone"), words);
  show();
  return h("div", { class: "attach" }, list, h("div", { class: "pair" },
    h("label", { class: "button wide quiet" }, icon("camera"), t("photo"), photo),
    navigator.mediaDevices?.getUserMedia && globalThis.MediaRecorder ? sound : null));
}
