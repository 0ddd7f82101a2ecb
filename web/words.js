// What a node says of its result stays on the node: front ends take a node's progress text away when the job ends.
// The words come with the result (`words`, or `text`), or, for nodes that others sample, by a message of their own.
// What went wrong stands there as well until the next run: newer front ends keep an error's words behind a button.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const NAME = "unguide_words";
const PROGRESS = "$$node-text-preview"; // the front end's own, which says the same while it is there
const ours = (node) => /^UnGuid(e|ance)/.test(node?.comfyClass ?? "");

function widgetOf(node) {
  const there = node.widgets?.find((widget) => widget.name === NAME);
  if (there) return there;
  const { widget } = ComfyWidgets.STRING(node, NAME, ["STRING", { multiline: true }], app);
  widget.label = "result";
  widget.serialize = false; // neither in the workflow nor in the prompt
  widget.options = { ...widget.options, serialize: false, read_only: true };
  const area = widget.element ?? widget.inputEl;
  if (area) {
    area.readOnly = true;
    area.classList.add("unguide-words");
  }
  const [width, height] = node.size;
  const [, needed] = node.computeSize();
  node.setSize([width, Math.max(height, needed)]);
  return widget;
}

const failed = new Set(); // the nodes with an error's words
const said = new Map(); // words by graph and node: a change of tab makes the nodes of a graph anew
const key = (node) => `${node.graph?.id} ${node.id}`;

function dropPreview(node) {
  // Nodes 2.0 would show the last preview above the result; its store is to be had through the page's own app alone
  const pinia = document.querySelector("#vue-app")?.__vue_app__?.config.globalProperties.$pinia;
  pinia?._s.get("nodeOutput")?.revokePreviewsByLocatorId?.(String(node.id));
}

function say(node, text) {
  if (!ours(node) || !text) return;
  failed.delete(node);
  const progress = node.widgets?.findIndex((widget) => widget.name === PROGRESS) ?? -1;
  if (progress >= 0) {
    node.widgets[progress].onRemove?.();
    node.widgets.splice(progress, 1);
  }
  widgetOf(node).value = text; // a text field: nothing in it is taken for HTML
  said.set(key(node), text);
  node.setDirtyCanvas(true, true);
}

function find(id) {
  // "12", or "7:12": node 12 in the subgraph that node 7 is
  let graph = app.rootGraph ?? app.graph;
  const path = String(id).split(":");
  for (const step of path.slice(0, -1)) graph = graph?.getNodeById(Number(step))?.subgraph;
  return graph?.getNodeById(Number(path.at(-1)));
}

function forget(node) {
  const at = node.widgets?.findIndex((widget) => widget.name === NAME) ?? -1;
  said.delete(key(node));
  if (at < 0) return;
  node.widgets[at].onRemove?.();
  node.widgets.splice(at, 1);
  node.setDirtyCanvas(true, true);
}

api.addEventListener("execution_error", ({ detail }) => {
  const node = find(detail.node_id);
  say(node, detail.exception_message);
  if (ours(node)) failed.add(node);
});

api.addEventListener("execution_start", () => {
  failed.forEach(forget);
  failed.clear();
});

api.addEventListener("unguide.words", ({ detail }) => say(find(detail.node), detail.text));

app.registerExtension({
  name: "unguide.words",
  loadedGraphNode(node) {
    say(node, said.get(key(node)));
  },
  nodeCreated(node) {
    if (!ours(node)) return;
    const before = node.onExecuted;
    node.onExecuted = function (message, ...rest) {
      const result = before?.call(this, message, ...rest);
      say(this, (message?.words ?? message?.text)?.join("\n"));
      if (message?.images?.length) dropPreview(this);
      return result;
    };
  },
});
