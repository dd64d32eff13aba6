// Moves theta through the profile's grid: numbers, the bar, the maps, the plane's windows.
// Everything that it shows at the start is in the page already, so it may be switched off.
"use strict";
(() => {
  const slider = document.getElementById("theta");
  const source = document.getElementById("profile");
  if (!slider || !source) return;
  const profile = JSON.parse(source.textContent);
  const KEPT = ["s1_only", "s2_only", "shared"];
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const each = (selector, change) => document.querySelectorAll(selector).forEach(change);
  const set = (id, fields) => {
    const element = document.getElementById(id);
    for (const [name, value] of Object.entries(fields)) element.setAttribute(name, value);
  };
  const total = profile.elements.reduce((sum, count) => sum + count, 0);
  const plane = document.getElementById("window-rest");
  const left = Number(plane.getAttribute("x"));
  const foot = Number(plane.getAttribute("y")) + Number(plane.getAttribute("height"));
  const other = document.getElementById("window-shared");
  const right = Number(other.getAttribute("x")) + Number(other.getAttribute("width"));
  const top = Number(other.getAttribute("y"));

  const sums = (k) => {
    const found = {};
    for (const key of KEPT) found[key] = profile[key].reduce((sum, row) => sum + row[k], 0);
    found.rest = total - found.s1_only - found.s2_only - found.shared;
    return found;
  };

  const showNumbers = (found) => {
    const union = found.s1_only + found.s2_only + found.shared;
    const told = {
      "kept-1": percent((found.s1_only + found.shared) / total),
      "kept-2": percent((found.s2_only + found.shared) / total),
      jaccard: (found.shared / Math.max(1, union)).toFixed(3),
    };
    for (const key of [...KEPT, "rest"]) told[key] = percent(found[key] / total);
    each("[data-told]", (element) => { element.textContent = told[element.dataset.told]; });
    let x = 0;
    each("[data-bar]", (element) => {
      const wide = (100 * found[element.dataset.bar]) / total;
      element.setAttribute("x", x);
      element.setAttribute("width", wide);
      x += wide;
    });
  };

  const showMaps = (k) => each("[data-place]", (cell) => {
    const { place, region } = cell.dataset;
    const share = profile[region][place][k] / profile.elements[place];
    cell.setAttribute("fill-opacity", Math.min(1, share / (profile.most[region] || 1)));
    cell.firstElementChild.textContent = `${profile.places[place]}: ${percent(share)}`;
  });

  const showPlane = (x, y) => {
    const windows = {
      s1: [x, y, right, foot], s2: [left, top, x, y], shared: [x, top, right, y],
      rest: [left, y, x, foot],
    };
    for (const [name, [x0, y0, x1, y1]] of Object.entries(windows)) {
      set(`window-${name}`, { x: x0, y: y0, width: x1 - x0, height: y1 - y0 });
    }
    set("cut-1", { d: `M${x} ${top}V${foot}` });
    set("cut-2", { d: `M${left} ${y}H${right}` });
  };

  const show = (k) => {
    const theta = String(profile.thetas[k]);
    document.getElementById("theta-told").textContent = theta;
    slider.setAttribute("aria-valuetext", theta);
    showNumbers(sums(k));
    showMaps(k);
    showPlane(profile.cut_x[k], profile.cut_y[k]);
    const rule = document.getElementById("rule");
    rule.setAttribute("d", rule.getAttribute("d").replace(/^M[^ ]+/, `M${profile.rule[k]}`));
  };

  slider.hidden = false;
  slider.addEventListener("input", () => show(Number(slider.value)));
})();
