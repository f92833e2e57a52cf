/**
 * From a query to a plan: what a transform asks for, checked, snapped, clamped to the source and
 * written as one canonical string, before a single pixel is decoded. Pure functions, all of it.
 *
 * Invariants:
 * - The same picture asked for in two ways gives one canonical string: order, aliases, defaults and
 *   whatever changes nothing leave no trace in it.
 * - Two canonical strings of one source are two different pictures.
 * - No picture is enlarged, and no output is over the limits below.
 */

import { createHash } from "node:crypto";
import { Failure } from "../../base/failure.ts";
import { type DecodableFormat, type ImageFacts, isDecodable } from "./facts.ts";

type Fit = "cover" | "contain" | "inside" | "fill";
type OutputFormat = "jpeg" | "webp" | "avif" | "png";
type ImagePolicy = "ladder" | "open" | "off";

/** What was asked for, each part as given or undefined. */
export interface Transform {
  width: number | undefined;
  height: number | undefined;
  fit: Fit | undefined;
  format: OutputFormat | "auto" | undefined;
  quality: number | undefined;
}

/**
 * How the picture gets its size: `none` keeps it, `scale` fits all of it to exactly the output's
 * size, `cover` fills that size and cuts off what hangs over, `contain` pads around the picture.
 */
type Resize = "none" | "scale" | "cover" | "contain";

export interface RenderPlan {
  /** Such as `v1;f=webp;fit=cover;h=480;q=76;w=640`: names in order, everything resolved. */
  canonical: string;
  contentType: string;
  /** The answer depends on the request's Accept header. */
  varyAccept: boolean;
  format: OutputFormat;
  /** Undefined where the format has none (png). */
  quality: number | undefined;
  resize: Resize;
  outWidth: number;
  outHeight: number;
}

/** The widths that a bucket renders for anyone: what bounds the variants of one picture. */
export const ladder: readonly number[] = [
  16, 32, 48, 64, 96, 128, 256, 384, 512, 640, 750, 828, 1080, 1200, 1920, 2048, 3840,
];

export const sourcePixelsMax = 50_000_000;
const requestSideMax = 8_192;
const outputSideMax = 8_192; // also below the 16,383 that a WebP can be
const outputPixelsMax = 16_700_000;
// Encoding AVIF costs a hundred times a JPEG: a full HD screen, no more.
const avifPixelsMax = 1_920 * 1_080;

const defaultQuality = { jpeg: 80, webp: 76, avif: 50 } as const;
const canonicalVersion = "v1";

type ParameterName = "w" | "h" | "fit" | "f" | "q";

const parameterByName: ReadonlyMap<string, ParameterName> = new Map([
  ["w", "w"],
  ["width", "w"],
  ["h", "h"],
  ["height", "h"],
  ["fit", "fit"],
  ["resize", "fit"],
  ["mode", "fit"],
  ["f", "f"],
  ["format", "f"],
  ["fm", "f"],
  ["output", "f"],
  ["q", "q"],
  ["quality", "q"],
]);

const fits = ["cover", "contain", "inside", "fill"] as const;
const formatByName: ReadonlyMap<string, OutputFormat | "auto"> = new Map([
  ["jpeg", "jpeg"],
  ["jpg", "jpeg"],
  ["webp", "webp"],
  ["avif", "avif"],
  ["png", "png"],
  ["auto", "auto"],
]);

/**
 * The transform in a query, or undefined when it has none of a transform's names. Beside one, an
 * unknown name is refused: were it ignored, anyone could make endless cache keys of one picture.
 */
export function readTransform(query: URLSearchParams): Transform | undefined {
  const given = new Map<ParameterName, string>();
  const unknown: string[] = [];
  for (const [name, value] of query) {
    const parameter = parameterByName.get(name);
    if (parameter === undefined) {
      if (!passesThrough(name)) unknown.push(name);
    } else if (given.has(parameter)) {
      throw refuse(`"${parameter}" is given twice`);
    } else {
      given.set(parameter, value);
    }
  }
  if (given.size === 0) return undefined;
  if (unknown[0] !== undefined) {
    throw refuse(`"${show(unknown[0])}" is not one of w, h, fit, f, q`);
  }
  return {
    width: readInteger(given, "w", requestSideMax),
    height: readInteger(given, "h", requestSideMax),
    fit: readFit(given.get("fit")),
    format: readFormat(given.get("f")),
    quality: readInteger(given, "q", 100),
  };
}

function passesThrough(name: string): boolean {
  return name === "v" || name === "versionId" || name === "download" || name.startsWith("utm_");
}

function readInteger(
  given: ReadonlyMap<ParameterName, string>,
  name: ParameterName,
  max: number,
): number | undefined {
  const text = given.get(name);
  if (text === undefined) return undefined;
  const value = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (value < 1 || value > max) {
    throw refuse(`"${name}" must be a whole number from 1 to ${max}, and is "${show(text)}"`);
  }
  return value;
}

function readFit(text: string | undefined): Fit | undefined {
  if (text === undefined) return undefined;
  const fit = fits.find((candidate) => candidate === text);
  if (fit === undefined) {
    throw refuse(`"fit" must be one of ${fits.join(", ")}, and is "${show(text)}"`);
  }
  return fit;
}

function readFormat(text: string | undefined): OutputFormat | "auto" | undefined {
  if (text === undefined) return undefined;
  const format = formatByName.get(text);
  if (format === undefined) {
    throw refuse(`"f" must be one of jpeg, webp, avif, png, auto, and is "${show(text)}"`);
  }
  return format;
}

function refuse(why: string): Failure {
  return new Failure("bad-request", `Cannot read the transform: ${why}`);
}

function show(text: string): string {
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}

export interface PlanOptions {
  policy: ImagePolicy;
  /** The request's Accept header; only `f=auto` looks at it. */
  accept: string | undefined;
}

/** What exactly to render, or a `Failure` when it is not allowed, not possible or too much. */
export function planTransform(
  transform: Transform,
  facts: ImageFacts | undefined,
  { policy, accept }: PlanOptions,
): RenderPlan {
  if (policy === "off") {
    throw new Failure("forbidden", "Cannot resize: this bucket has its images set to off");
  }
  const source = orientedSource(facts);
  const { format: sourceFormat, hasAlpha } = source;

  const asked = policy === "ladder" ? snapToLadder(transform) : transform;
  const geometry = planGeometry(asked, source);
  const { resize, outWidth, outHeight } = geometry;

  const format = chooseFormat(transform.format, { sourceFormat, hasAlpha, accept, geometry });
  if (format === "avif" && outWidth * outHeight > avifPixelsMax) {
    const size = `${outWidth}x${outHeight}`;
    const hint = "ask for a smaller w or h, or for f=webp";
    throw new Failure("bad-request", `Cannot make an AVIF of ${size}: over 2 megapixels, ${hint}`);
  }
  const quality = format === "png" ? undefined : (transform.quality ?? defaultQuality[format]);

  return {
    canonical: formatCanonical({ ...canonicalSize(geometry, source), format, quality }),
    contentType: `image/${format}`,
    varyAccept: transform.format === "auto",
    format,
    quality,
    resize,
    outWidth,
    outHeight,
  };
}

/** A source as the eye sees it: upright. */
interface Source {
  width: number;
  height: number;
  format: DecodableFormat;
  hasAlpha: boolean;
}

function orientedSource(facts: ImageFacts | undefined): Source {
  if (facts === undefined) {
    throw new Failure("unprocessable", "Cannot resize: this is not an image that can be read");
  }
  const { width, height, orientation, format, hasAlpha } = facts;
  if (!isDecodable(format)) {
    const name = format.toUpperCase();
    const hint = "the original is stored and served as it is";
    throw new Failure("unsupported", `Cannot resize: ${name} images are not decoded; ${hint}`);
  }
  if (width < 1 || height < 1) {
    throw new Failure("unprocessable", "Cannot resize: the image does not tell its size");
  }
  // One frame is decoded, so one frame is counted, however many an animation has.
  if (width * height > sourcePixelsMax) {
    const size = `${width}x${height}`;
    const limit = `${sourcePixelsMax / 1e6} megapixels`;
    throw new Failure("too-large", `Cannot resize: the image is ${size}, and over ${limit}`);
  }
  const isTurned = orientation >= 5;
  return {
    width: isTurned ? height : width,
    height: isTurned ? width : height,
    format,
    hasAlpha,
  };
}

/** The first step at or above `side`, or the last one: a picture this wide is as good as any wider. */
export function snapSide(side: number): number {
  return ladder.find((step) => step >= side) ?? ladder.at(-1) ?? side;
}

function snapToLadder(transform: Transform): Transform {
  const { width, height } = transform;
  if (width === undefined) {
    return height === undefined ? transform : { ...transform, height: snapSide(height) };
  }
  const snapped = snapSide(width);
  if (height === undefined) return { ...transform, width: snapped };
  return {
    ...transform,
    width: snapped,
    height: Math.max(1, Math.round((height * snapped) / width)),
  };
}

interface Geometry {
  resize: Resize;
  outWidth: number;
  outHeight: number;
}

type Box = Pick<Source, "width" | "height">;

function planGeometry(asked: Pick<Transform, "width" | "height" | "fit">, source: Box): Geometry {
  const { width, height, fit = "cover" } = asked;
  const scaleX = (width ?? Number.POSITIVE_INFINITY) / source.width;
  const scaleY = (height ?? Number.POSITIVE_INFINITY) / source.height;

  // One side alone says nothing about the shape, so there is nothing to crop, pad or stretch.
  if (width === undefined || height === undefined || fit === "inside") {
    return scaleTo(limitBox(scaleBox(source, Math.min(scaleX, scaleY, 1))), source);
  }

  // The box keeps its shape and shrinks until the picture in it is not enlarged.
  const scale = fit === "contain" ? Math.min(scaleX, scaleY) : Math.max(scaleX, scaleY);
  const box = limitBox(scaleBox({ width, height }, scale > 1 ? 1 / scale : 1));
  if (fit === "fill") return scaleTo(box, source);

  const boxScales = [box.width / source.width, box.height / source.height];
  const pictureScale = fit === "contain" ? Math.min(...boxScales) : Math.max(...boxScales);
  const picture = scaleBox(source, pictureScale);
  // Nothing hangs over and nothing is left to pad.
  if (picture.width === box.width && picture.height === box.height) return scaleTo(box, source);
  return { resize: fit, outWidth: box.width, outHeight: box.height };
}

function scaleTo({ width, height }: Box, source: Box): Geometry {
  const isSame = width === source.width && height === source.height;
  return { resize: isSame ? "none" : "scale", outWidth: width, outHeight: height };
}

function scaleBox({ width, height }: Box, scale: number): Box {
  return {
    width: Math.max(1, Math.round(width * scale)),
    height: Math.max(1, Math.round(height * scale)),
  };
}

function limitBox({ width, height }: Box): Box {
  const scale = Math.min(
    1,
    outputSideMax / width,
    outputSideMax / height,
    Math.sqrt(outputPixelsMax / (width * height)),
  );
  // Down, not to the nearest: a limit is not passed by rounding.
  return {
    width: Math.max(1, Math.floor(width * scale)),
    height: Math.max(1, Math.floor(height * scale)),
  };
}

function chooseFormat(
  asked: Transform["format"],
  {
    sourceFormat,
    hasAlpha,
    accept,
    geometry,
  }: {
    sourceFormat: DecodableFormat;
    hasAlpha: boolean;
    accept: string | undefined;
    geometry: Geometry;
  },
): OutputFormat {
  if (asked === undefined) {
    if (sourceFormat === "gif") return "png"; // of one frame
    // Nobody asked for AVIF by name here, so one too big to encode goes out as WebP, not as an error.
    const isOver = geometry.outWidth * geometry.outHeight > avifPixelsMax;
    return sourceFormat === "avif" && isOver ? "webp" : sourceFormat;
  }
  if (asked !== "auto") return asked;

  const isDrawing = sourceFormat === "png" || sourceFormat === "gif";
  const family = isDrawing || hasAlpha ? "png" : "jpeg";
  const weights = parseAccept(accept);
  // "*/*" is said by clients that know no WebP: it has to be named.
  const webpWeight = weights.get("image/webp") ?? 0;
  const familyWeight =
    weights.get(`image/${family}`) ?? weights.get("image/*") ?? weights.get("*/*") ?? 0;
  return webpWeight > 0 && webpWeight >= familyWeight ? "webp" : family;
}

/** Each media range of an Accept header with its q-value. */
function parseAccept(accept: string | undefined): Map<string, number> {
  const weights = new Map<string, number>();
  for (const part of (accept ?? "").split(",")) {
    const [range = "", ...parameters] = part.split(";");
    const weight = parameters
      .map((parameter) => /^\s*q\s*=\s*([\d.]+)\s*$/i.exec(parameter)?.[1])
      .find((text) => text !== undefined);
    weights.set(range.trim().toLowerCase(), weight === undefined ? 1 : Number(weight) || 0);
  }
  return weights;
}

interface CanonicalParts {
  width?: number;
  height?: number;
  fit?: Fit;
  format: OutputFormat;
  quality: number | undefined;
}

/** The shortest way to ask for this size: none, one side, or both with what is done about the shape. */
function canonicalSize(
  { resize, outWidth, outHeight }: Geometry,
  source: Box,
): Pick<CanonicalParts, "width" | "height" | "fit"> {
  const both = { width: outWidth, height: outHeight };
  if (resize === "cover" || resize === "contain") return { ...both, fit: resize };
  for (const part of [{}, { width: outWidth }, { height: outHeight }]) {
    const { width, height } = { width: undefined, height: undefined, ...part };
    const same = planGeometry({ width, height, fit: undefined }, source);
    if (same.outWidth === outWidth && same.outHeight === outHeight) return part;
  }
  return { ...both, fit: "fill" };
}

function formatCanonical({ width, height, fit, format, quality }: CanonicalParts): string {
  const values = { f: format, fit, h: height, q: quality, w: width };
  const parts = Object.entries(values)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${value}`);
  return [canonicalVersion, ...parts].join(";");
}

/** The transform that a canonical string stands for, or undefined when the text is none. */
export function parseCanonical(text: string): Transform | undefined {
  const [version, ...parts] = text.split(";");
  if (version !== canonicalVersion) return undefined;
  return readTransform(new URLSearchParams(parts.join("&")));
}

/**
 * The name of a variant: of which bytes, rendered how, by which encoder. Neither Accept nor policy
 * nor a signature is in it, so all who may see the same picture share it.
 */
export function variantKey({
  fids,
  plan,
  revision,
}: {
  fids: readonly string[];
  plan: Pick<RenderPlan, "canonical">;
  /** What `Images.revision` says: other encoders make other bytes. */
  revision: string;
}): string {
  const text = JSON.stringify([revision, plan.canonical, ...fids]);
  return createHash("sha256").update(text).digest("hex").slice(0, 32);
}
