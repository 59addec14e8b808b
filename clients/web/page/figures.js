// The graphs of the last minute.
import { byId } from "./dom.js";

export const HISTORY_S = 60;

/** Draw both graphs of `history`, a list of {at, fps, p50, p95}; times in seconds, of performance.now(). */
export function drawGraphs(history) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  drawGraph(history, byId("graph-latency"), "capture to publish", " ms", [
    { key: "p95", label: "p95", colour: colour("--second") },
    { key: "p50", label: "p50", colour: colour("--accent") },
  ]);
  drawGraph(history, byId("graph-fps"), "output", " fps", [{ key: "fps", label: "frames/s", colour: colour("--accent") }]);
}

function niceStep(range) {
  const rough = range / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => power * factor >= rough);
}

function drawGraph(history, canvas, title, unit, lines) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width || !height) return;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const style = getComputedStyle(document.documentElement);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const rem = parseFloat(style.fontSize); // grows with the screen, and all that is measured here with it
  context.font = `${0.73 * rem}px ${getComputedStyle(document.body).fontFamily}`;
  context.textBaseline = "middle";
  const top = 1.35 * rem;
  const bottom = height - 6;
  const known = history.flatMap((sample) => lines.map((line) => sample[line.key])).filter((v) => v !== null);
  const step = niceStep(Math.max(1e-3, ...known, 1));
  const high = Math.max(1, Math.ceil(Math.max(0, ...known) / step)) * step;
  const values = Array.from({ length: Math.round(high / step) + 1 }, (_, i) => i * step);
  const written = (value) => `${Number(value.toFixed(3))}${unit}`;
  const left = Math.ceil(Math.max(43, ...values.map((value) => context.measureText(written(value)).width))) + 7;
  const now = performance.now() / 1000;
  const x = (at) => left + (width - left - 4) * (1 - (now - at) / HISTORY_S);
  const y = (value) => bottom - (bottom - top) * (value / high);
  context.lineWidth = 1;
  for (const value of values) {
    const at = Math.round(y(value)) + 0.5;
    context.strokeStyle = style.getPropertyValue("--line");
    context.beginPath();
    context.moveTo(left, at);
    context.lineTo(width, at);
    context.stroke();
    context.fillStyle = style.getPropertyValue("--quiet");
    context.textAlign = "right";
    context.fillText(written(value), left - 7, at);
  }
  let labelAt = width - 4;
  for (const line of lines) {
    context.strokeStyle = line.colour;
    context.lineWidth = 1.6;
    context.lineJoin = "round";
    context.beginPath();
    let pen = false;
    for (const sample of history) {
      const value = sample[line.key];
      if (value !== null) {
        if (pen) context.lineTo(x(sample.at), y(value));
        else context.moveTo(x(sample.at), y(value));
      }
      pen = value !== null;
    }
    context.stroke();
    context.fillStyle = line.colour;
    context.fillText(line.label, labelAt, 0.55 * rem);
    labelAt -= context.measureText(line.label).width + 14;
  }
  context.textAlign = "left";
  context.fillStyle = style.getPropertyValue("--quiet");
  context.fillText(`${title}, last minute`, left, 0.55 * rem);
}
