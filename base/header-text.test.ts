import { expect, test } from "vitest";
import { decodeHeaderText, encodeHeaderText } from "./header-text.ts";

test("Text comes through a header as it was, and Latin-1 that is no UTF-8 stays what it is", () => {
  for (const text of ["plain", "grün.jpg", "写真.jpg", ""]) {
    expect(decodeHeaderText(encodeHeaderText(text))).toBe(text);
  }
  expect(decodeHeaderText("gr\u00fcn")).toBe("gr\u00fcn");
});
