// Keys and the diff; every page works without this.
"use strict";

const form = document.getElementById("decision");
const editor = document.getElementById("correction");
const answer = document.getElementById("answer");
const diff = document.getElementById("diff");

function words(text) {
  return text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || [];
}

// Longest common subsequence; texts of answers are short, very long ones are not compared.
function compare(before, after) {
  const [a, b] = [words(before), words(after)];
  if (a.length * b.length > 4e6) return null;
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const parts = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      parts.push(["same", a[i]]);
      i++, j++;
    } else if (i < a.length && (j === b.length || length[i + 1][j] >= length[i][j + 1])) {
      parts.push(["del", a[i++]]);
    } else {
      parts.push(["ins", b[j++]]);
    }
  }
  return grouped(parts);
}

// A changed phrase reads better as one phrase out, one in: a blank between two changes goes along.
function grouped(parts) {
  const groups = [];
  let [gone, come] = ["", ""];
  const close = () => {
    if (gone) groups.push(["del", gone]);
    if (come) groups.push(["ins", come]);
    [gone, come] = ["", ""];
  };
  parts.forEach(([kind, text], at) => {
    const next = parts[at + 1];
    const between = kind === "same" && /^\s+$/.test(text) && gone && come && next && next[0] !== "same";
    if (kind === "del" || between) gone += text;
    if (kind === "ins" || between) come += text;
    if (kind === "same" && !between) {
      close();
      groups.push([kind, text]);
    }
  });
  close();
  return groups;
}

function show() {
  const parts = compare(answer.textContent, editor.value);
  diff.hidden = !parts || !editor.value.trim() || parts.every(([kind]) => kind === "same");
  diff.replaceChildren(
    ...(parts || []).map(([kind, text]) => {
      const node = document.createElement(kind === "same" ? "span" : kind);
      node.textContent = text;
      return node;
    }),
  );
}

let sent = false;

function submit(target, button) {
  if (!target || sent) return;
  target.requestSubmit(button);
}

function press(verdict) {
  const button = form && form.querySelector(`button[value=${verdict}]`);
  if (button) submit(form, button);
}

if (editor) {
  const label = document.getElementById("wrong");
  const update = () => {
    show();
    label.textContent = editor.value.trim() ? "Wrong, save correction" : "Wrong, no correction";
  };
  editor.addEventListener("input", update);
  update();
}

// One decision a page, however often a key is pressed until the next one is there.
document.addEventListener("submit", () => (sent = true));
addEventListener("pageshow", () => (sent = false));

document.addEventListener("keydown", (event) => {
  // A key that is held down must not decide the next item too.
  if (event.repeat) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return press("wrong");
  if (event.target === editor) {
    if (event.key === "Escape") editor.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  const verdict = { c: "correct", w: "wrong", u: "unsafe", s: "skip" }[event.key];
  if (verdict) press(verdict);
  if (event.key === "z") submit(document.querySelector("form[data-undo]"));
  if (event.key === "Enter" && event.target === document.body) document.getElementById("begin")?.click();
  if (event.key === "e" && editor) {
    event.preventDefault();
    editor.focus();
  }
});
