// The smallest three.js scene: one plane, the texture of one channel. /examples/three.html?channel=NAME
import { Mesh, MeshBasicMaterial, PerspectiveCamera, PlaneGeometry, Scene, WebGLRenderer } from "three";
import { FrameloomTexture } from "../frameloom-three.js";

const query = new URLSearchParams(location.search);
const renderer = new WebGLRenderer({ canvas: document.querySelector("canvas"), antialias: true });
const camera = new PerspectiveCamera(45, 1, 0.1, 10);
camera.position.z = 1.4;

const texture = new FrameloomTexture(location.href, query.get("channel") ?? undefined, {
  side: query.get("side") ?? "out",
  codec: query.get("codec") ?? "jpeg",
  renderer,
});
const scene = new Scene().add(new Mesh(new PlaneGeometry(1, 1), new MeshBasicMaterial({ map: texture })));

renderer.setAnimationLoop(() => {
  const { clientWidth, clientHeight } = document.documentElement;
  renderer.setSize(clientWidth, clientHeight, false);
  camera.aspect = clientWidth / clientHeight;
  camera.updateProjectionMatrix();
  renderer.render(scene, camera);
});
const about = document.querySelector("#about");
setInterval(() => {
  about.textContent = texture.message || `frame ${texture.sourceFrameId}, ${texture.ageMs?.toFixed(0) ?? "?"} ms old`;
}, 250);

// For the console, and for the tests.
globalThis.example = { texture, renderer, scene, camera };
