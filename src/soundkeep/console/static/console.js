// Conveniences of the console: copying, closing menus, confirming in a dialog. Every page works
// without them. Listeners sit on the document, so they outlive pages that htmx swaps in.
"use strict";

(() => {
  const reveal = () => {
    if (!navigator.clipboard) return;
    for (const button of document.querySelectorAll("button.copy[hidden]")) button.hidden = false;
  };

  const copy = async (button) => {
    const source = document.getElementById(button.dataset.copy);
    if (!source) return;
    const label = button.firstChild;
    const before = label.data;
    try {
      await navigator.clipboard.writeText(source.textContent);
      label.data = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      label.data = "Press Ctrl+C";
    }
    setTimeout(() => { label.data = before; }, 2000);
  };

  const closeMenus = (except) => {
    for (const menu of document.querySelectorAll("details[data-closes][open]")) {
      if (menu !== except) menu.open = false;
    }
  };

  // The confirmation page's own form, shown over the list it was asked from.
  const confirm = async (link) => {
    try {
      const answer = await fetch(link.href, { headers: { accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const card = page.querySelector("[data-confirmation]");
      if (!answer.ok || !card) throw new Error("no confirmation");
      const dialog = document.createElement("dialog");
      dialog.className = "dialog";
      card.querySelector("form").action = link.href;
      card.querySelector("h1").id = "dialog-title";
      dialog.setAttribute("aria-labelledby", "dialog-title");
      card.querySelector("a.quiet").addEventListener("click", (event) => {
        event.preventDefault();
        dialog.close();
      });
      dialog.append(card);
      dialog.addEventListener("close", () => { dialog.remove(); link.focus(); });
      document.body.append(dialog);
      dialog.showModal();
    } catch {
      location.assign(link.href);
    }
  };

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) return;
    closeMenus(target.closest("details[data-closes]"));
    const button = target.closest("button.copy");
    if (button) copy(button);
    const link = target.closest("a[data-confirm]");
    const plain = event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey);
    if (link && plain && window.HTMLDialogElement) {
      event.preventDefault();
      confirm(link);
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const open = document.querySelector("details[data-closes][open]");
    closeMenus(null);
    open?.querySelector("summary").focus();
  });

  // After htmx put another page in place, tell assistive technology where it begins.
  document.addEventListener("htmx:afterSettle", () => {
    reveal();
    document.getElementById("main")?.focus({ preventScroll: true });
  });

  document.addEventListener("DOMContentLoaded", reveal);
  reveal();
})();
