// What ../vendor/babylon.js holds: the part of @babylonjs/core that frameloom-babylon.js and the sample need.
export { ArcRotateCamera } from "@babylonjs/core/Cameras/arcRotateCamera.js";
export { Engine } from "@babylonjs/core/Engines/engine.js";
import "@babylonjs/core/Engines/Extensions/engine.dynamicTexture.js";
export { StandardMaterial } from "@babylonjs/core/Materials/standardMaterial.js";
export { Texture } from "@babylonjs/core/Materials/Textures/texture.js";
export { Color3, Color4 } from "@babylonjs/core/Maths/math.color.js";
export { Vector3 } from "@babylonjs/core/Maths/math.vector.js";
export { CreatePlane } from "@babylonjs/core/Meshes/Builders/planeBuilder.js";
export { Scene } from "@babylonjs/core/scene.js";
