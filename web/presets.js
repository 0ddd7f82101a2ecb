// On UnGuide Train LoRA, a preset sets the values of its controls; changing one of them sets the preset to "custom".
// Nodes with expensive results start with a fixed seed: with a random one, each run would train or measure again.
import { app } from "../../scripts/app.js";

const CUSTOM = "custom";
const presets = fetch(new URL("presets.json", import.meta.url)).then((response) => response.json());

function callOnChange(widget, action) {
  const callback = widget.callback;
  widget.callback = function (...args) {
    const result = callback?.apply(this, args);
    action();
    return result;
  };
}

async function connect(node) {
  const values = await presets;
  const preset = node.widgets.find((widget) => widget.name === "preset");
  const names = Object.keys(Object.values(values)[0]);
  const controls = node.widgets.filter((widget) => names.includes(widget.name));
  node.applyPreset = () => {
    const chosen = values[preset.value];
    if (chosen) for (const control of controls) control.value = chosen[control.name];
    node.setDirtyCanvas(true, true);
  };
  callOnChange(preset, node.applyPreset);
  for (const control of controls)
    callOnChange(control, () => {
      const chosen = values[preset.value];
      if (chosen && chosen[control.name] !== control.value) preset.value = CUSTOM;
      node.setDirtyCanvas(true, true);
    });
  node.applyPreset();
}

const FIXED_SEED_NODES = ["UnGuideTrainLoRA", "UnGuideCalibrate", "UnGuideStabilityProbe"];

function fixSeed(node) {
  const control = node.widgets?.find((widget) => widget.name === "control_after_generate");
  if (control) control.value = "fixed";
}

const isTrainer = (node) => node.comfyClass === "UnGuideTrainLoRA";

app.registerExtension({
  name: "unguide.presets",
  nodeCreated(node) {
    if (FIXED_SEED_NODES.includes(node.comfyClass)) fixSeed(node);
    if (isTrainer(node)) connect(node);
  },
  loadedGraphNode(node) {
    if (isTrainer(node)) node.applyPreset?.();
  },
});
