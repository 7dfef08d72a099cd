// Reads the machine's QR code where the browser can (Android). Elsewhere the phone's own camera opens the link.

import { h } from "../dom.js";
import { head } from "../frame.js";
import { t } from "../texts.js";

export const live = false;
export const title = () => t("scan");
export const model = () => ({});
let stream = null;

export function leave() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
}

// The machine of a link of ours, whatever host it names: the phone may have come by another name.
export function machineOf(text) {
  const match = text.match(/\/form\/m\/([^/?#]+)/);
  return match ? decodeURIComponent(match[1]) : null;
}

export function view(_, { go }) {
  const video = h("video", { class: "camera", muted: true, playsinline: true, "aria-label": t("scan") });
  const says = h("p", { class: "soft", role: "status" }, t("scan_hint"));
  const look = async () => {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    video.srcObject = stream;
    await video.play();
    const detector = new BarcodeDetector({ formats: ["qr_code"] });
    while (stream) {
      const [found] = await detector.detect(video);
      const id = found && machineOf(found.rawValue);
      if (id) return go(`/form/m/${encodeURIComponent(id)}?src=qr`, { replace: true });
      if (found) says.textContent = t("scan_other");
      await new Promise((resolve) => { setTimeout(resolve, 200); });
    }
    return undefined;
  };
  look().catch((error) => { says.textContent = t("scan_failed", { why: error.message }); });
  return [head(t("scan"), { back: "/form/" }), video, says];
}
