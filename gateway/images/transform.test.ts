import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ImageFacts } from "./facts.ts";
import {
  ladder,
  parseCanonical,
  planTransform,
  type RenderPlan,
  readTransform,
  snapSide,
  type Transform,
  variantKey,
} from "./transform.ts";

const photo: ImageFacts = {
  width: 4_000,
  height: 3_000,
  orientation: 1,
  format: "jpeg",
  pages: 1,
  hasAlpha: false,
};

function plan(
  query: string,
  {
    facts = photo,
    policy = "open",
    accept,
  }: { facts?: ImageFacts; policy?: "ladder" | "open" | "off"; accept?: string } = {},
): RenderPlan {
  const transform = readTransform(new URLSearchParams(query));
  if (transform === undefined) throw new Error(`no transform in ${query}`);
  return planTransform(transform, facts, { policy, accept });
}

function size({ outWidth, outHeight }: RenderPlan): string {
  return `${outWidth}x${outHeight}`;
}

describe("reading a query", () => {
  test("A query without a transform's names has no transform, whatever else it has", () => {
    for (const query of [
      "",
      "v=3",
      "utm_source=mail&gclid=1",
      "versionId=x&download=",
      "foo=bar",
    ]) {
      expect(readTransform(new URLSearchParams(query)), query).toBeUndefined();
    }
  });

  test("Names that pass through may stand beside a transform", () => {
    const query = "w=640&v=1&versionId=abc&download=a.jpg&utm_source=mail";
    expect(readTransform(new URLSearchParams(query))).toMatchObject({ width: 640 });
  });

  test.each([
    ["w=640&blur=3", /"blur" is not one of/],
    ["w=640&W=320", /"W" is not one of/],
    ["w=1&w=1", /"w" is given twice/],
    ["w=1&width=2", /"w" is given twice/],
    ["f=webp&fm=avif", /"f" is given twice/],
    ["w=", /"w" must be a whole number from 1 to 8192, and is ""/],
    ["w=0", /whole number/],
    ["w=-1", /whole number/],
    ["w=1.5", /whole number/],
    ["w=1e3", /whole number/],
    ["w=+10", /whole number/],
    ["w=8193", /whole number/],
    ["h=99999999999999999999", /whole number/],
    ["q=101", /"q" must be a whole number from 1 to 100/],
    ["q=0", /whole number/],
    ["fit=crop", /"fit" must be one of cover, contain, inside, fill, and is "crop"/],
    ["fit=", /"fit" must be/],
    ["f=gif", /"f" must be one of jpeg, webp, avif, png, auto/],
    ["f=__proto__", /"f" must be/],
  ])("%s is refused", (query, message) => {
    const read = () => readTransform(new URLSearchParams(query));
    expect(read).toThrow(message);
    expect(read).toThrow(expect.objectContaining({ kind: "bad-request" }));
  });
});

describe("geometry", () => {
  test.each([
    ["w=640", "640x480"],
    ["h=480", "640x480"],
    ["w=640&h=640", "640x640"], // cover when both are given
    ["w=640&h=640&fit=inside", "640x480"],
    ["w=640&h=640&fit=contain", "640x640"],
    ["w=640&h=640&fit=fill", "640x640"],
    ["w=640&fit=cover", "640x480"], // one side alone has no shape
    ["w=8000", "4000x3000"],
    ["w=8000&h=2000&fit=cover", "4000x1000"],
    ["w=8000&h=8000&fit=cover", "3000x3000"],
    ["w=8000&h=8000&fit=contain", "4000x4000"],
    ["w=8000&h=1000&fit=fill", "4000x500"],
    ["q=50", "4000x3000"],
    ["w=1&h=1", "1x1"],
  ])("%s of 4000x3000 is %s", (query, expected) => {
    expect(size(plan(query))).toBe(expected);
  });

  test("A turned source is measured as the eye sees it", () => {
    for (const orientation of [1, 2, 3, 4]) {
      expect(size(plan("w=400", { facts: { ...photo, orientation } }))).toBe("400x300");
    }
    for (const orientation of [5, 6, 7, 8]) {
      expect(size(plan("w=300", { facts: { ...photo, orientation } }))).toBe("300x400");
    }
  });

  test("No side is ever less than a pixel", () => {
    expect(size(plan("w=16", { facts: { ...photo, width: 8_000, height: 10 } }))).toBe("16x1");
  });

  test("The output stays within its limits", () => {
    const wide = { ...photo, width: 20_000, height: 2_000 };
    expect(size(plan("f=webp", { facts: wide }))).toBe("8192x819");
    const big = plan("f=jpeg", { facts: { ...photo, width: 8_000, height: 6_000 } });
    expect(big.outWidth * big.outHeight).toBeLessThanOrEqual(16_700_000);
  });
});

describe("the ladder", () => {
  const policy = "ladder";
  test.each([
    ["w=600", "640x480"],
    ["w=640", "640x480"],
    ["w=320&h=320", "384x384"],
    ["w=100&h=50", "128x64"],
    ["h=400", "683x512"],
    ["w=3841", "3840x2880"],
    ["w=3900&h=3900&fit=inside", "3840x2880"],
  ])("%s of 4000x3000 is %s", (query, expected) => {
    expect(size(plan(query, { policy }))).toBe(expected);
  });

  test("Snapping goes up, keeps the order, and is done once", () => {
    const side = fc.integer({ min: 1, max: 8_192 });
    fc.assert(
      fc.property(side, side, (first, second) => {
        const [small, large] = first < second ? [first, second] : [second, first];
        expect(snapSide(small)).toBeLessThanOrEqual(snapSide(large));
        expect(snapSide(snapSide(small))).toBe(snapSide(small));
        expect(snapSide(small)).toBeGreaterThanOrEqual(Math.min(small, 3_840));
        expect(ladder).toContain(snapSide(small));
      }),
    );
  });

  test("One picture has few widths, whatever is asked", () => {
    const widths = new Set<number>();
    for (let width = 1; width <= 8_192; width++) {
      widths.add(plan(`w=${width}`, { policy }).outWidth);
    }
    expect([...widths]).toEqual(ladder);
  });
});

describe("formats", () => {
  const chrome = "image/avif,image/webp,image/apng,image/*,*/*;q=0.8";
  const png: ImageFacts = { ...photo, format: "png", hasAlpha: true };

  test.each([
    ["w=64&f=auto", photo, chrome, "webp"],
    ["w=64&f=auto", photo, "*/*", "jpeg"],
    ["w=64&f=auto", photo, "image/*", "jpeg"],
    ["w=64&f=auto", photo, undefined, "jpeg"],
    ["w=64&f=auto", photo, "image/webp;q=0", "jpeg"],
    ["w=64&f=auto", photo, "image/webp;q=0.5, image/jpeg", "jpeg"],
    ["w=64&f=auto", photo, "IMAGE/WEBP ; q=0.9 , */*;q=0.1", "webp"],
    ["w=64&f=auto", png, "*/*", "png"],
    ["w=64&f=auto", { ...photo, format: "avif" }, "*/*", "jpeg"],
    ["w=64&f=auto", { ...png, format: "webp" }, "*/*", "png"],
    ["w=64", photo, chrome, "jpeg"],
    ["w=64", png, chrome, "png"],
    ["w=64", { ...photo, format: "webp" }, "*/*", "webp"],
    ["w=64", { ...photo, format: "avif" }, "*/*", "avif"],
    ["w=4000", { ...photo, format: "avif" }, "*/*", "webp"],
    ["w=64", { ...photo, format: "gif", pages: 9 }, "*/*", "png"],
    ["w=64&f=jpg", png, "*/*", "jpeg"],
  ] as const)("%s of %o for %s is %4$s", (query, facts, accept, format) => {
    const options = accept === undefined ? { facts } : { facts, accept };
    const { contentType, varyAccept } = plan(query, options);
    expect(contentType).toBe(`image/${format}`);
    expect(varyAccept).toBe(query.includes("auto"));
  });

  test("Quality has a default for each format, and none for png", () => {
    expect(plan("f=jpeg").quality).toBe(80);
    expect(plan("f=webp").quality).toBe(76);
    expect(plan("w=100&f=avif").quality).toBe(50);
    expect(plan("f=png&q=40").quality).toBeUndefined();
  });
});

describe("what is refused before decoding", () => {
  test.each([
    ["w=64", { policy: "off" } as const, "forbidden"],
    ["w=64", { facts: { ...photo, format: "heic" } } as const, "unsupported"],
    ["w=64", { facts: { ...photo, format: "svg", width: 0, height: 0 } } as const, "unsupported"],
    ["w=64", { facts: { ...photo, format: "tiff" } } as const, "unsupported"],
    ["w=64", { facts: { ...photo, width: 20_000, height: 20_000 } }, "too-large"],
    ["w=64", { facts: { ...photo, width: 50_000_001, height: 1 } }, "too-large"],
    ["w=64", { facts: { ...photo, width: 0 } }, "unprocessable"],
    ["f=avif", {}, "bad-request"],
    ["w=1921&h=1081&f=avif", {}, "bad-request"],
  ])("%s with %o is %s", (query, options, kind) => {
    expect(() => plan(query, options)).toThrow(expect.objectContaining({ kind }));
  });

  test("What is no image can't be resized", () => {
    const transform = readTransform(new URLSearchParams("w=64"));
    const planIt = () =>
      planTransform(transform as Transform, undefined, { policy: "ladder", accept: undefined });
    expect(planIt).toThrow(expect.objectContaining({ kind: "unprocessable" }));
  });

  test("The limits themselves are allowed", () => {
    expect(size(plan("w=64", { facts: { ...photo, width: 10_000, height: 5_000 } }))).toBe("64x32");
    const hd = { ...photo, width: 3_840, height: 2_160 };
    expect(size(plan("w=1920&f=avif", { facts: hd }))).toBe("1920x1080");
  });
});

describe("the canonical string", () => {
  test.each([
    ["w=640", "v1;f=jpeg;q=80;w=640"],
    ["h=480", "v1;f=jpeg;q=80;w=640"],
    ["w=640&h=480", "v1;f=jpeg;q=80;w=640"], // nothing is cut off
    ["w=640&h=480&fit=cover&f=webp", "v1;f=webp;q=76;w=640"],
    ["w=640&h=640&fit=cover&f=webp", "v1;f=webp;fit=cover;h=640;q=76;w=640"],
    ["w=640&h=640&fit=contain", "v1;f=jpeg;fit=contain;h=640;q=80;w=640"],
    ["w=640&h=640&fit=fill&f=png&q=3", "v1;f=png;fit=fill;h=640;w=640"],
    ["w=8000", "v1;f=jpeg;q=80"],
    ["quality=80", "v1;f=jpeg;q=80"],
  ])("%s is %s", (query, expected) => {
    expect(plan(query).canonical).toBe(expected);
  });

  test("Text that is none is told apart", () => {
    expect(parseCanonical("w=640")).toBeUndefined();
    expect(parseCanonical("v2;w=640")).toBeUndefined();
  });

  const aliases = {
    w: ["w", "width"],
    h: ["h", "height"],
    fit: ["fit", "resize", "mode"],
    f: ["f", "format", "fm", "output"],
    q: ["q", "quality"],
  } as const;
  const side = fc.integer({ min: 1, max: 8_192 });
  const parameters = fc.record(
    {
      w: side,
      h: side,
      fit: fc.constantFrom("cover", "contain", "inside", "fill"),
      f: fc.constantFrom("jpeg", "webp", "png", "auto"),
      q: fc.integer({ min: 1, max: 100 }),
    },
    { requiredKeys: [] },
  );
  const sources = fc
    .record({
      width: fc.integer({ min: 1, max: 12_000 }),
      height: fc.integer({ min: 1, max: 12_000 }),
      orientation: fc.integer({ min: 1, max: 8 }),
      format: fc.constantFrom("jpeg", "png", "webp", "gif"),
      pages: fc.constant(1),
      hasAlpha: fc.boolean(),
    })
    .filter(({ width, height }) => width * height <= 50_000_000);
  const policies = fc.constantFrom("ladder", "open");
  const accepts = fc.constantFrom(undefined, "image/webp,*/*");

  type Parameters = Partial<Record<keyof typeof aliases, string | number>>;
  const isAny = (given: Parameters) => Object.keys(given).length > 0;
  const read = (pairs: [string, string | number][]): Transform => {
    const query = new URLSearchParams(
      pairs.map(([name, value]): [string, string] => [name, String(value)]),
    );
    const transform = readTransform(query);
    if (transform === undefined) throw new Error("no transform");
    return transform;
  };

  test("does not depend on order or aliases", () => {
    fc.assert(
      fc.property(
        parameters.filter(isAny),
        sources,
        policies,
        fc.array(fc.nat(), { minLength: 10, maxLength: 10 }),
        (given, facts, policy, choices) => {
          const pairs = Object.entries(given);
          const other = pairs
            .map(([name, value], at): [string, string | number, number] => {
              const names = aliases[name as keyof typeof aliases];
              const alias = names[(choices[at] ?? 0) % names.length] ?? name;
              return [alias, value, choices[at + 5] ?? 0];
            })
            .sort((left, right) => left[2] - right[2])
            .map(([name, value]): [string, string | number] => [name, value]);
          const options = { policy, accept: undefined };
          expect(planTransform(read(other), facts, options)).toEqual(
            planTransform(read(pairs), facts, options),
          );
        },
      ),
    );
  });

  test("is its own canonical string, and stands for the same picture", () => {
    fc.assert(
      fc.property(
        parameters.filter(isAny),
        sources,
        policies,
        accepts,
        (given, facts, policy, accept) => {
          const first = planTransform(read(Object.entries(given)), facts, { policy, accept });
          const transform = parseCanonical(first.canonical);
          if (transform === undefined) throw new Error("not canonical");
          const again = planTransform(transform, facts, { policy: "open", accept: undefined });
          expect(again).toEqual({ ...first, varyAccept: false });
        },
      ),
      { numRuns: 2_000 },
    );
  });

  test("differs exactly when the picture differs", () => {
    fc.assert(
      fc.property(
        parameters.filter(isAny),
        parameters.filter(isAny),
        sources,
        policies,
        (left, right, facts, policy) => {
          const options = { policy, accept: undefined };
          const [one, two] = [left, right].map((given) => {
            const { canonical, ...rest } = planTransform(
              read(Object.entries(given)),
              facts,
              options,
            );
            return { canonical, picture: JSON.stringify({ ...rest, varyAccept: false }) };
          });
          expect(one?.canonical === two?.canonical).toBe(one?.picture === two?.picture);
        },
      ),
      { numRuns: 2_000 },
    );
  });

  test("never stands for more than the source or the limits", () => {
    fc.assert(
      fc.property(parameters.filter(isAny), sources, policies, (given, facts, policy) => {
        const transform = read(Object.entries(given));
        const { outWidth, outHeight, resize } = planTransform(transform, facts, {
          policy,
          accept: undefined,
        });
        expect(Math.min(outWidth, outHeight)).toBeGreaterThanOrEqual(1);
        expect(Math.max(outWidth, outHeight)).toBeLessThanOrEqual(8_192);
        expect(outWidth * outHeight).toBeLessThanOrEqual(16_700_000);
        const isTurned = facts.orientation >= 5;
        const width = isTurned ? facts.height : facts.width;
        const height = isTurned ? facts.width : facts.height;
        const [across, down] = [outWidth <= width, outHeight <= height];
        // Padding may go beyond the source on one axis; the picture in it does not.
        if (resize === "contain") expect(across || down).toBe(true);
        else expect(across && down).toBe(true);
      }),
      { numRuns: 2_000 },
    );
  });
});

test("A variant's key tells sources, pictures and encoders apart", () => {
  const one = { fids: ["3,01637037d6"], plan: plan("w=640"), revision: "a" };
  const keys = [
    one,
    { ...one, fids: ["3,02637037d6"] },
    { ...one, fids: ["3,01637037d6", "4,00637037d6"] },
    { ...one, plan: plan("w=384") },
    { ...one, revision: "b" },
  ].map(variantKey);
  expect(new Set(keys).size).toBe(5);
  expect(keys[0]).toMatch(/^[0-9a-f]{32}$/);
  expect(variantKey({ ...one, plan: plan("width=640&fit=inside") })).toBe(keys[0]);
});
