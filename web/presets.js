// UnGuide Train LoRA: a preset fills in the controls that it sets, and locks them; "custom" unlocks them as they stand.
import { app } from "../../scripts/app.js";

const presets = fetch(new URL("presets.json", import.meta.url)).then((answer) => answer.json());

async function apply(node) {
  const values = await presets;
  const chosen = values[node.widgets.find((widget) => widget.name === "preset").value];
  const controls = Object.keys(Object.values(values)[0]);
  for (const widget of node.widgets.filter((widget) => controls.includes(widget.name))) {
    widget.disabled = chosen !== undefined;
    if (chosen) widget.value = chosen[widget.name];
  }
  node.setDirtyCanvas(true, true);
}

app.registerExtension({
  name: "unguide.presets",
  nodeCreated(node) {
    if (node.comfyClass !== "UnGuideTrainLoRA") return;
    const preset = node.widgets.find((widget) => widget.name === "preset");
    const before = preset.callback;
    preset.callback = function (...args) {
      const result = before?.apply(this, args);
      apply(node);
      return result;
    };
    apply(node);
  },
  loadedGraphNode(node) {
    if (node.comfyClass === "UnGuideTrainLoRA") apply(node);
  },
});
