import fc from "fast-check";
import { expect, test } from "vitest";
import { parameterOf, splitForm } from "./multipart-form.ts";

const type = "multipart/form-data; boundary=b";
const bodyOf = (...lines: string[]) => Buffer.from(lines.join("\r\n"));

test("A form is taken apart into its parts with their headers", () => {
  const body = bodyOf(
    "--b",
    'Content-Disposition: form-data; name="file"; filename="grün.jpg"',
    "CONTENT-TYPE:  image/jpeg ",
    "",
    "one\r\ntwo",
    "--b  ",
    "",
    "no header",
    "--b--",
    "what comes after is nothing",
  );
  const parts = splitForm(body, type);
  expect(parts.map(({ content }) => content.toString())).toEqual(["one\r\ntwo", "no header"]);
  expect(parts[0]?.headers.get("content-type")).toBe("image/jpeg");
  expect(parameterOf(parts[0]?.headers.get("content-disposition") ?? "", "filename")).toBe(
    "grün.jpg",
  );
  expect(parts[1]?.headers.size).toBe(0);
});

test("A preamble, an empty part and a line that only begins like the boundary are what they are", () => {
  const body = bodyOf("preamble", "--b", "A: 1", "", "", "--b", "", "--bc", "--b--");
  const contents = splitForm(body, type).map(({ content }) => content.toString());
  expect(contents).toEqual(["", "--bc"]);
});

test("A form that is cut off at any byte is refused, never taken for a shorter one", () => {
  const body = bodyOf("--b", "A: 1", "", "content", "--b", "", "more", "--b--");
  for (let length = 0; length < body.length; length++) {
    expect(() => splitForm(body.subarray(0, length), type), `cut at ${length}`).toThrow(
      /Cannot read the form/,
    );
  }
  expect(() => splitForm(body, undefined)).toThrow(/no boundary/);
  expect(() => splitForm(body, "multipart/form-data")).toThrow(/no boundary/);
  expect(() => splitForm(bodyOf("--b--"), type)).toThrow(/no part/);
  expect(() => splitForm(bodyOf("--b", "no colon", "", "x", "--b--"), type)).toThrow(
    /without a name/,
  );
});

test("Whatever the platform writes as a form is read back", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          bytes: fc.uint8Array({ maxLength: 200 }),
          name: fc.string({ minLength: 1, unit: "binary" }),
        }),
        { minLength: 1, maxLength: 5 },
      ),
      async (files) => {
        const form = new FormData();
        for (const { bytes, name } of files) form.append("file", new Blob([bytes]), name);
        const encoded = new Response(form);
        const body = Buffer.from(await encoded.arrayBuffer());
        const parts = splitForm(body, encoded.headers.get("content-type") ?? "");
        expect(parts.map(({ content }) => [...content])).toEqual(
          files.map(({ bytes }) => [...bytes]),
        );
      },
    ),
  );
});

test("A parameter is read quoted, bare, escaped and in its extended form", () => {
  const rows: [string, string | undefined][] = [
    ['attachment; filename="a b.jpg"', "a b.jpg"],
    ["attachment; filename=a.jpg; size=3", "a.jpg"],
    ['attachment; FileName="a;b=c.jpg"', "a;b=c.jpg"],
    ['attachment; filename="say \\"hi\\".jpg"', 'say "hi".jpg'],
    ['attachment; filename="C:\\photos\\a.jpg"', "C:\\photos\\a.jpg"],
    ["attachment; filename=\"a.jpg\"; filename*=UTF-8''gr%C3%BCn.jpg", "grün.jpg"],
    ["attachment; filename*=UTF-8''%E0%A4%A; filename=a.jpg", "a.jpg"],
    ["attachment; filename*=latin1''a; filename=a.jpg", "a.jpg"],
    ["attachment", undefined],
    ['attachment; xfilename="a"', undefined],
    ['form-data; name="filename=x"; filename="y"', "y"],
  ];
  for (const [value, expected] of rows)
    expect(parameterOf(value, "filename"), value).toBe(expected);
});
