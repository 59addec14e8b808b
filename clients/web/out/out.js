// One channel's output and nothing else, for a projector or as a browser source: ?channel=NAME&fit=fit|fill|integer.
// The last picture stays whatever happens to its host. F or a double click: full screen; M: the next way to fit.
import { Feed } from "../frameloom-feed.js";

const FITS = ["fit", "fill", "integer"];
const query = new URLSearchParams(location.search);
const canvas = document.getElementById("picture");
// Opaque and without a queue: the newest picture is to be there as soon as it can.
const context = canvas.getContext("2d", { alpha: false, desynchronized: true });

function fitAs(fit) {
  document.body.dataset.fit = FITS.includes(fit) ? fit : FITS[0];
  layOut();
}

// Whole pixels of the screen for each of the picture's; a picture larger than the screen is shown as by "fit".
function layOut() {
  const ratio = devicePixelRatio;
  const times = Math.floor(Math.min((innerWidth * ratio) / canvas.width, (innerHeight * ratio) / canvas.height));
  const whole = document.body.dataset.fit === "integer" && times >= 1;
  canvas.style.width = whole ? `${(canvas.width * times) / ratio}px` : "";
  canvas.style.height = whole ? `${(canvas.height * times) / ratio}px` : "";
}

function toggleFull() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.().catch(() => {});
}

function nextFit() {
  const fit = FITS[(FITS.indexOf(document.body.dataset.fit) + 1) % FITS.length];
  query.set("fit", fit);
  history.replaceState(null, "", `?${query}`);
  fitAs(fit);
}

const feed = new Feed(location.href, query.get("channel") ?? undefined, {
  codec: query.get("codec") ?? "jpeg",
  upright: true,
});
feed.onframe = (bitmap, header) => {
  if (canvas.width !== header.width || canvas.height !== header.height) {
    Object.assign(canvas, { width: header.width, height: header.height });
    layOut();
  }
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  canvas.dataset.sourceFrameId = header.sourceFrameId;
};
// Nothing is written on the picture; the console and the window's title say what is the matter.
feed.onstate = (state, message) => {
  document.title = message ? `frameloom output: ${message}` : "frameloom output";
};
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key === "f") toggleFull();
  if (key === "m") nextFit();
});
addEventListener("dblclick", toggleFull);
addEventListener("resize", layOut);
fitAs(query.get("fit"));
