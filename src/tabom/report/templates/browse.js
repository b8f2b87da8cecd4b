"use strict";
(() => {
  const players = [...document.querySelectorAll(".player")].map((player) => ({
    slots: [...player.querySelectorAll(".slots span")],
    told: player.querySelector("output"),
    last: Number(player.dataset.last),
  }));
  const button = document.querySelector(".all button");
  const range = document.querySelector(".all input");
  const draw = () => {
    for (const { slots, told, last } of players) {
      const at = Math.min(Number(range.value), last);
      for (const slot of slots) {
        const step = Number(slot.dataset.step);
        slot.classList.toggle("open", step < 0 || step >= at);
        slot.classList.toggle("now", step >= 0 && step === at - 1);
      }
      told.textContent = `after ${at} of ${last} calls`;
    }
  };
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "play"; };
  button.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (range.value === range.max) range.value = 0;
    button.textContent = "stop";
    timer = setInterval(() => {
      range.value = Number(range.value) + 1;
      draw();
      if (range.value === range.max) stop();
    }, 250);
  });
  range.addEventListener("input", () => { stop(); draw(); });
  draw();
})();
