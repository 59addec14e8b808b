// The smallest Babylon.js scene: one plane, the texture of one channel. /examples/babylon.html?channel=NAME
import { ArcRotateCamera, Color3, Color4, CreatePlane, Engine, Scene, StandardMaterial, Vector3 } from "@babylonjs/core";
import { FrameloomTexture } from "../frameloom-babylon.js";

const query = new URLSearchParams(location.search);
const engine = new Engine(document.querySelector("canvas"), true);
const scene = new Scene(engine);
scene.clearColor = new Color4(0.08, 0.09, 0.11, 1);
const camera = new ArcRotateCamera("camera", -Math.PI / 2, Math.PI / 2, 1.4, Vector3.Zero(), scene);

const texture = new FrameloomTexture(location.href, query.get("channel") ?? undefined, scene, {
  side: query.get("side") ?? "out",
  codec: query.get("codec") ?? "jpeg",
});
const material = new StandardMaterial("screen", scene);
material.disableLighting = true;
material.emissiveColor = Color3.White();
material.diffuseTexture = texture;
CreatePlane("screen", { size: 1 }, scene).material = material;

addEventListener("resize", () => engine.resize());
engine.runRenderLoop(() => scene.render());
const about = document.querySelector("#about");
setInterval(() => {
  about.textContent = texture.message || `frame ${texture.sourceFrameId}, ${texture.ageMs?.toFixed(0) ?? "?"} ms old`;
}, 250);

// For the console, and for the tests.
globalThis.example = { texture, engine, scene, camera };
