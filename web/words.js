// Keeps a node's text about its result on the node: front ends remove a node's progress text when the job ends.
// The text comes with the result (`words` or `text`), or in a message if another node samples this one's MODEL.
// An error's message stays on its node until the next run: newer front ends show it only after a click.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const NAME = "unguide_words";
const LINE = 13, MARGIN = 12; // heights of a line and of a field's edges, in pixels of the canvas
const LETTER = 6.5; // width of a letter, in the same pixels
const MOST_LINES = 9; // a longer text can be scrolled
const PROGRESS = "$$node-text-preview"; // the front end's widget of the progress text, which is the same
const isOurs = (node) => /^UnGuid(e|ance)/.test(node?.comfyClass ?? "");

function textWidget(node) {
  const present = node.widgets?.find((widget) => widget.name === NAME);
  if (present) return present;
  const { widget } = ComfyWidgets.STRING(node, NAME, ["STRING", { multiline: true }], app);
  widget.label = "result";
  widget.serialize = false; // neither in the workflow nor in the prompt
  widget.options = { ...widget.options, serialize: false, read_only: true };
  const textarea = widget.element ?? widget.inputEl;
  if (textarea) {
    textarea.readOnly = true;
    textarea.classList.add("unguide-words");
  }
  return widget;
}

function makeRoom(node, widget, text) {
  const letters = Math.max(1, Math.floor(node.size[0] / LETTER));
  const lines = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / letters)), 0);
  const height = MARGIN + LINE * Math.min(MOST_LINES, lines);
  widget.options = { ...widget.options, getMinHeight: () => height };
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
}

const failed = new Set(); // the nodes that show an error
const texts = new Map(); // by graph and node: the front end makes new nodes for a graph when its tab is shown
const key = (node) => `${node.graph?.id} ${node.id}`;

function dropPreview(node) {
  // Nodes 2.0 would show the last preview above the result; only the page's own app gives access to its store
  const pinia = document.querySelector("#vue-app")?.__vue_app__?.config.globalProperties.$pinia;
  pinia?._s.get("nodeOutput")?.revokePreviewsByLocatorId?.(String(node.id));
}

function showText(node, text) {
  if (!isOurs(node) || !text) return;
  failed.delete(node);
  const progress = node.widgets?.findIndex((widget) => widget.name === PROGRESS) ?? -1;
  if (progress >= 0) {
    node.widgets[progress].onRemove?.();
    node.widgets.splice(progress, 1);
  }
  const widget = textWidget(node);
  widget.value = text; // a text field, which does not render HTML
  makeRoom(node, widget, text);
  texts.set(key(node), text);
  node.setDirtyCanvas(true, true);
}

function findNode(id) {
  // "12", or "7:12" for node 12 in the subgraph of node 7
  let graph = app.rootGraph ?? app.graph;
  const path = String(id).split(":");
  for (const step of path.slice(0, -1)) graph = graph?.getNodeById(Number(step))?.subgraph;
  return graph?.getNodeById(Number(path.at(-1)));
}

function removeText(node) {
  const index = node.widgets?.findIndex((widget) => widget.name === NAME) ?? -1;
  texts.delete(key(node));
  if (index < 0) return;
  node.widgets[index].onRemove?.();
  node.widgets.splice(index, 1);
  node.setDirtyCanvas(true, true);
}

api.addEventListener("execution_error", ({ detail }) => {
  const node = findNode(detail.node_id);
  showText(node, detail.exception_message);
  if (isOurs(node)) failed.add(node);
});

api.addEventListener("execution_start", () => {
  failed.forEach(removeText);
  failed.clear();
});

api.addEventListener("unguide.words", ({ detail }) => showText(findNode(detail.node), detail.text));

app.registerExtension({
  name: "unguide.words",
  loadedGraphNode(node) {
    showText(node, texts.get(key(node)));
  },
  nodeCreated(node) {
    if (!isOurs(node)) return;
    const onExecuted = node.onExecuted;
    node.onExecuted = function (message, ...rest) {
      const result = onExecuted?.call(this, message, ...rest);
      showText(this, (message?.words ?? message?.text)?.join("\n"));
      if (message?.images?.length) dropPreview(this);
      return result;
    };
  },
});
