"use strict";
for (const player of document.querySelectorAll(".player")) {
  const slots = [...player.querySelectorAll(".slots span")];
  const range = player.querySelector("input");
  const told = player.querySelector("output");
  const draw = () => {
    const at = Number(range.value);
    for (const slot of slots) {
      const step = Number(slot.dataset.step);
      slot.classList.toggle("open", step < 0 || step >= at);
      slot.classList.toggle("now", step >= 0 && step === at - 1);
    }
    told.textContent = `after ${at} of ${range.max} calls`;
  };
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; player.querySelector("button").textContent = "play"; };
  player.querySelector("button").addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (range.value === range.max) range.value = 0;
    player.querySelector("button").textContent = "stop";
    timer = setInterval(() => {
      range.value = Number(range.value) + 1;
      draw();
      if (range.value === range.max) stop();
    }, 250);
  });
  range.addEventListener("input", draw);
  draw();
}
