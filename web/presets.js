// UnGuide Train LoRA: a preset fills in the controls that it sets; touching one of them makes it "custom".
// Nodes whose result is kept begin with a fixed seed: with a random one every Run would train or measure anew.
import { app } from "../../scripts/app.js";

const CUSTOM = "custom";
const presets = fetch(new URL("presets.json", import.meta.url)).then((answer) => answer.json());

function follow(widget, done) {
  const before = widget.callback;
  widget.callback = function (...args) {
    const result = before?.apply(this, args);
    done();
    return result;
  };
}

async function connect(node) {
  const values = await presets;
  const preset = node.widgets.find((widget) => widget.name === "preset");
  const names = Object.keys(Object.values(values)[0]);
  const controls = node.widgets.filter((widget) => names.includes(widget.name));
  node.fillIn = () => {
    const chosen = values[preset.value];
    if (chosen) for (const control of controls) control.value = chosen[control.name];
    node.setDirtyCanvas(true, true);
  };
  follow(preset, node.fillIn);
  for (const control of controls)
    follow(control, () => {
      const chosen = values[preset.value];
      if (chosen && chosen[control.name] !== control.value) preset.value = CUSTOM;
      node.setDirtyCanvas(true, true);
    });
  node.fillIn();
}

const STEADY = ["UnGuideTrainLoRA", "UnGuideCalibrate", "UnGuideStabilityProbe"];

function keepSeed(node) {
  const control = node.widgets?.find((widget) => widget.name === "control_after_generate");
  if (control) control.value = "fixed";
}

const ours = (node) => node.comfyClass === "UnGuideTrainLoRA";

app.registerExtension({
  name: "unguide.presets",
  nodeCreated(node) {
    if (STEADY.includes(node.comfyClass)) keepSeed(node);
    if (ours(node)) connect(node);
  },
  loadedGraphNode(node) {
    if (ours(node)) node.fillIn?.();
  },
});
