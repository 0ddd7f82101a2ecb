// Inputs that a node calls advanced are hidden until one asks for them: right-click > Show Advanced.
// Front ends mark such widgets in their options. Older ones hide by the widget's own mark alone, and leave a gap.
import { app } from "../../scripts/app.js";

const NO_ROOM = () => [0, -4]; // 4 are added to what a widget asks for

function fold(node, widget) {
  widget.advanced = true;
  const shown = widget.computeSize;
  Object.defineProperty(widget, "computeSize", {
    configurable: true,
    get: () => (node.showAdvanced ? shown : NO_ROOM),
  });
}

app.registerExtension({
  name: "unguide.fold",
  nodeCreated(node) {
    if (!/^UnGuid(e|ance)/.test(node.comfyClass)) return;
    const advanced = node.widgets?.filter((widget) => widget.options?.advanced) ?? [];
    for (const widget of advanced) fold(node, widget);
    if (advanced.length) node.setSize([node.size[0], node.computeSize()[1]]);
  },
});
