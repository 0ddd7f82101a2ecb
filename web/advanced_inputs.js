// Hides the inputs that a node marks as advanced, until the user chooses Show Advanced in the node's menu.
// Newer front ends read the mark from the widget's options. Older ones read it from the widget, and leave a gap.
import { app } from "../../scripts/app.js";

const hiddenSize = () => [0, -4]; // the front end adds 4 to a widget's height

function hideUntilShown(node, widget) {
  widget.advanced = true;
  const computeSize = widget.computeSize;
  Object.defineProperty(widget, "computeSize", {
    configurable: true,
    get: () => (node.showAdvanced ? computeSize : hiddenSize),
  });
}

app.registerExtension({
  name: "unguide.advanced_inputs",
  nodeCreated(node) {
    if (!/^UnGuid(e|ance)/.test(node.comfyClass)) return;
    const advanced = node.widgets?.filter((widget) => widget.options?.advanced) ?? [];
    for (const widget of advanced) hideUntilShown(node, widget);
    if (advanced.length) node.setSize([node.size[0], node.computeSize()[1]]);
  },
});
