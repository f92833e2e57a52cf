import { expect, test } from "vitest";
import { ByteBudget } from "./byte-budget.ts";

test("What goes over the budget is refused until something is given back", () => {
  const budget = new ByteBudget(100);
  const giveBack = budget.take(60);
  budget.take(40);
  expect(() => budget.take(1)).toThrow(/memory/);
  giveBack();
  giveBack(); // a second time is no second gift
  budget.take(60);
  expect(() => budget.take(1)).toThrow(/memory/);
});

test("One body that is larger than the budget gets through alone", () => {
  const budget = new ByteBudget(100);
  const giveBack = budget.take(500);
  expect(() => budget.take(1)).toThrow(/memory/);
  giveBack();
  budget.take(1);
  expect(() => budget.take(500)).toThrow(/memory/);
});
