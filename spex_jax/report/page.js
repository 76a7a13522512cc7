(() => {
  "use strict";

  // Data reaches the page only as text nodes, so a name that looks like markup stays text.
  const make = (tag, text, name) => {
    const node = document.createElement(tag);
    node.textContent = text;
    if (name) node.className = name;
    return node;
  };

  const NAMES = 8; // names of removed units to list, so that the panel stays small

  function start(root) {
    const find = (selector) => root.querySelector(selector);
    const data = JSON.parse(find(".sx-data").textContent);
    const units = [...root.querySelectorAll(".sx-u")];
    const at = new Map(units.map((unit) => [Number(unit.dataset.i), unit]));
    const removed = new Set();

    const show = (value, plus) => {
      const text = data.digits === null ? value.toExponential(3) : value.toFixed(data.digits);
      const clean = /^-[0.]*$/.test(text) ? text.slice(1) : text; // "-0.000"
      return plus && value > 0 ? "+" + clean : clean;
    };
    // A term is [coefficient, features...]; its sign is -1 where an odd number of its features is kept.
    const predict = (without) =>
      data.terms.reduce((sum, [coefficient, ...features]) => {
        const kept = features.filter((feature) => !without.has(feature)).length;
        return kept % 2 ? sum - coefficient : sum + coefficient;
      }, 0);
    const toggled = (feature) => {
      const without = new Set(removed);
      if (!without.delete(feature)) without.add(feature);
      return without;
    };
    const label = (feature) => {
      const node = make("bdi", data.names[feature]);
      if (data.names[feature] !== String(feature)) node.append(make("sub", feature));
      return node;
    };
    const join = (features, separator) => features.flatMap((f, k) => (k ? [separator, label(f)] : [label(f)]));
    const whole = predict(removed);

    function update() {
      const value = predict(removed);
      find(".sx-prediction").textContent = show(value);
      find(".sx-change").textContent = removed.size ? show(value - whole, true) + " compared with nothing removed" : "";
      const gone = [...removed].sort((a, b) => a - b);
      const more = gone.length > NAMES ? " and " + (gone.length - NAMES) + " more" : "";
      const list = gone.length ? ["Removed: ", ...join(gone.slice(0, NAMES), ", "), more] : ["Nothing removed."];
      find(".sx-removed").replaceChildren(...list);
      find(".sx-reset").disabled = removed.size === 0;
      const marker = find(".sx-track b");
      if (marker) {
        const [low, high] = data.range;
        marker.style.left = Math.min(100, Math.max(0, (100 * (value - low)) / (high - low))) + "%";
      }
      for (const [feature, unit] of at) unit.setAttribute("aria-pressed", removed.has(feature));
    }

    function clear() {
      for (const unit of units) unit.classList.remove("sx-self", "sx-with-pos", "sx-with-neg");
    }

    function describe(feature) {
      clear();
      at.get(feature).classList.add("sx-self");
      const title = make("div", "");
      title.append(label(feature), ": " + data.index + " " + show(data.values[feature], true));
      const change = predict(toggled(feature)) - predict(removed);
      const verb = removed.has(feature) ? "Putting it back" : "Removing it now";
      const sentence = verb + " changes the prediction by " + show(change, true) + ".";
      const acting = make("div", "");
      for (const [value, ...members] of data.partners[feature] || []) {
        const others = members.filter((member) => member !== feature);
        const item = make("span", "");
        item.append("together with ", ...join(others, " + "), " " + show(value, true));
        acting.append(item, " ");
        const mark = value > 0 ? "sx-with-pos" : "sx-with-neg";
        // Rows are sorted by strength, so a unit keeps the mark of its strongest row.
        for (const other of others) {
          const unit = at.get(other);
          if (unit && !/sx-with/.test(unit.className)) unit.classList.add(mark);
        }
      }
      find(".sx-unit").replaceChildren(title, make("div", sentence, "sx-muted"), acting);
    }

    function toggle(feature) {
      if (!removed.delete(feature)) removed.add(feature);
      update();
      describe(feature);
    }

    for (const [feature, unit] of at) {
      unit.addEventListener("mouseenter", () => describe(feature));
      unit.addEventListener("mouseleave", clear);
      unit.addEventListener("focus", () => describe(feature));
      unit.addEventListener("blur", clear);
      unit.addEventListener("click", () => toggle(feature));
      unit.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        event.stopPropagation(); // notebooks use these keys themselves
        toggle(feature);
      });
    }
    find(".sx-reset").addEventListener("click", () => {
      removed.clear();
      update();
    });

    const rows = [...root.querySelectorAll("tr[data-members]")];
    for (const row of rows) {
      const members = row.dataset.members.split(" ").map((member) => at.get(Number(member)));
      const mark = "sx-with-" + row.dataset.sign;
      row.addEventListener("mouseenter", () => members.forEach((unit) => unit && unit.classList.add(mark)));
      row.addEventListener("mouseleave", clear);
    }
    const filters = [...root.querySelectorAll(".sx-filter button")];
    for (const button of filters) {
      button.addEventListener("click", () => {
        const order = button.dataset.order;
        for (const other of filters) other.setAttribute("aria-pressed", other === button);
        for (const row of rows.filter((row) => row.dataset.order)) row.hidden = order ? row.dataset.order !== order : !("top" in row.dataset);
      });
    }
    update();
  }

  // A notebook runs this once for each fragment, without setting document.currentScript.
  for (const root of document.querySelectorAll(".sx:not([data-ready])")) {
    root.dataset.ready = "";
    start(root);
  }
})();
