//! From WGSL files to one validated, reflected module.
//!
//! A kernel is one file with one entry point. Its text may use directives, each alone on a line. `#import NAME` takes in
//! `shaders/shared/NAME.wgsl` once. `#if KNOB`, `#else`, `#endif` keep lines for a knob's non-zero or zero value; knobs
//! become `const`s in a header, so bodies choose with ordinary `if`s too, which the driver folds. `#for i < TV`,
//! `#end` repeat the lines between them with 0u, 1u, ... for `i`: software drivers leave many a loop as it is, and keep
//! an array that it indexes in memory, gathered lane by lane. `@tensor` in front of a storage variable stands for the
//! next free binding, in order of appearance. A `struct Params` in the file is bound behind the tensors as a uniform
//! buffer, or as immediates where the device has them. Lines that begin with `enable ` move to the top, where WGSL wants
//! them.

use std::fmt::Write as _;

use crate::error::{Error, Result};

/// A WGSL kernel as a file, with everything Rust must know of it. What its bindings are and how they
/// are accessed is read from the file by naga, not restated here. Most are statics; one whose text is made while the
/// program runs lives as long as it is recorded.
#[derive(Clone, Copy, Debug)]
pub struct Shader<'a> {
    /// Path below `shaders/` without the ending; its last part is the entry point.
    pub name: &'a str,
    /// The file's text.
    pub source: &'a str,
    /// Compile-time constants, in the order in which their values are passed.
    pub knobs: &'a [Knob<'a>],
    /// Layout of the parameter block, from [`Params::FIELDS`]; empty for a kernel without one.
    pub params: &'a [Field],
}

/// A compile-time constant of a kernel and the values it may take.
#[derive(Clone, Copy, Debug)]
pub struct Knob<'a> {
    /// Name of the `const` in WGSL.
    pub name: &'a str,
    /// Every value in use; tests compile each.
    pub values: &'a [u32],
}

/// One field of a parameter block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Name, equal in Rust and WGSL.
    pub name: &'static str,
    /// Offset in bytes.
    pub offset: usize,
    /// `u32`, `i32` or `f32`.
    pub kind: &'static str,
}

/// A parameter block: 32-bit scalars one behind the other, mirrored by `struct Params` in WGSL. [`params!`](crate::params)
/// declares one.
pub trait Params {
    /// The layout, compared with naga's when the kernel is compiled.
    const FIELDS: &'static [Field];

    /// The block as the kernel reads it.
    fn bytes(&self) -> Vec<u8>;
}

/// Declares a parameter block: a struct of `u32`, `i32` and `f32` that is [`Params`](crate::gpu::Params), its fields in
/// the order of the kernel's `struct Params`.
///
/// ```
/// use thermoscope::gpu::Params;
///
/// thermoscope::params! {
///     /// What the kernel is told.
///     struct Square { n: u32, x_replica: u32, scale: f32 }
/// }
/// assert_eq!(Square::FIELDS[2].offset, 8);
/// assert_eq!(Square { n: 1, x_replica: 0, scale: 0.5 }.bytes().len(), 12);
/// ```
#[macro_export]
macro_rules! params {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$fmeta:meta])* $field:ident: $kind:ident),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default)]
        $vis struct $name { $($(#[$fmeta])* $vis $field: $kind),* }
        impl $crate::gpu::Params for $name {
            const FIELDS: &'static [$crate::gpu::Field] = &[$($crate::gpu::Field {
                name: stringify!($field),
                offset: std::mem::offset_of!($name, $field),
                kind: stringify!($kind),
            }),*];

            fn bytes(&self) -> Vec<u8> {
                [$(self.$field.to_ne_bytes()),*].concat()
            }
        }
    };
}

/// `shaders/shared/`: text that kernels import.
const SHARED: &[(&str, &str)] = &[
    ("activation", include_str!("../../shaders/shared/activation.wgsl")),
    ("affine", include_str!("../../shaders/shared/affine.wgsl")),
    ("attention", include_str!("../../shaders/shared/attention.wgsl")),
    ("cross_entropy", include_str!("../../shaders/shared/cross_entropy.wgsl")),
    ("each_activation", include_str!("../../shaders/shared/each_activation.wgsl")),
    ("edit", include_str!("../../shaders/shared/edit.wgsl")),
    ("hyper", include_str!("../../shaders/shared/hyper.wgsl")),
    ("logits", include_str!("../../shaders/shared/logits.wgsl")),
    ("matmul", include_str!("../../shaders/shared/matmul.wgsl")),
    ("normal", include_str!("../../shaders/shared/normal.wgsl")),
    ("numerics", include_str!("../../shaders/shared/numerics.wgsl")),
    ("operands", include_str!("../../shaders/shared/operands.wgsl")),
    ("patterns", include_str!("../../shaders/shared/patterns.wgsl")),
    ("picked", include_str!("../../shaders/shared/picked.wgsl")),
    ("philox", include_str!("../../shaders/shared/philox.wgsl")),
    ("reduce", include_str!("../../shaders/shared/reduce.wgsl")),
    ("reduce_eight", include_str!("../../shaders/shared/reduce_eight.wgsl")),
    ("rows", include_str!("../../shaders/shared/rows.wgsl")),
    ("shares", include_str!("../../shaders/shared/shares.wgsl")),
    ("streaming", include_str!("../../shaders/shared/streaming.wgsl")),
    ("vectors", include_str!("../../shaders/shared/vectors.wgsl")),
];

/// What a kernel's text is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dialect {
    /// Parameters are immediates, and no uniform buffer.
    pub(super) immediates: bool,
    /// Four floats that are only read are loaded as two words of 64 bits. Software drivers load lane by lane and
    /// component by component, and what a component costs them does not depend on its width.
    pub(super) long: bool,
}

/// What naga says of an assembled kernel.
pub(super) struct Reflected {
    pub(super) module: naga::Module,
    /// Access of each tensor binding, by binding index; `true` where the kernel writes.
    pub(super) writes: Vec<bool>,
    pub(super) workgroup: [u32; 3],
    /// The module as text, kept for error messages.
    pub(super) text: Text,
}

/// Assembled text that remembers which file each line came from.
#[derive(Default)]
pub(super) struct Text {
    pub(super) code: String,
    origin: Vec<(String, u32)>,
    tensors: u32,
}

impl Text {
    fn line(&mut self, text: &str, file: &str, number: u32) {
        match text.trim_start().strip_prefix("@tensor ") {
            Some(variable) => {
                let _ = write!(self.code, "@group(0) @binding({}) {variable}", self.tensors);
                self.tensors += 1;
            }
            None => self.code.push_str(text),
        }
        self.code.push('\n');
        self.origin.push((file.to_owned(), number));
    }

    /// Loads vectors of four floats from tensors that are only read as two words of 64 bits: `x[i]` becomes
    /// `floats(x[i])`.
    fn load_long(&mut self) {
        let of_four = |ty: &str| ty == "vec4<f32>" || self.code.contains(&format!("alias {ty} = vec4<f32>;"));
        let declared = |line: &str| {
            let (name, rest) = line.split_once("var<storage, read> ")?.1.split_once(": array<")?;
            of_four(rest.split_once(">;")?.0).then(|| (name.to_owned(), rest.to_owned()))
        };
        let found: Vec<_> = self.code.lines().filter_map(declared).collect();
        for (name, rest) in &found {
            let long = |rest: &str| format!("var<storage, read> {name}: array<{rest}");
            self.code = wrapped(&self.code.replace(&long(rest), &long("vec2<u64>>;")), name);
        }
        if !found.is_empty() {
            self.code.push_str(
                "fn floats(v: vec2<u64>) -> vec4<f32> { \
                 return bitcast<vec4<f32>>(vec4<u32>(u32(v.x), u32(v.x >> 32u), u32(v.y), u32(v.y >> 32u))); }\n",
            );
        }
    }

    /// `4`, `TM`, `TN * 2 / SG`: numbers, and constants declared so far, knobs among them, from left to right.
    fn value(&self, words: &[&str]) -> Option<u32> {
        let (last, before) = words.split_last()?;
        let last = last.trim_end_matches('u').parse().ok().or_else(|| {
            let (_, rest) = self.code.split_once(&format!("const {last}: u32 = "))?;
            self.value(&rest.split_once(';')?.0.split_whitespace().collect::<Vec<_>>())
        })?;
        match before {
            [] => Some(last),
            [before @ .., "*"] => self.value(before)?.checked_mul(last),
            [before @ .., "/"] => self.value(before)?.checked_div(last),
            _ => None,
        }
    }

    /// File and line an assembled line (from 1) came from.
    pub(super) fn origin(&self, line: u32) -> String {
        match self.origin.get(line.saturating_sub(1) as usize) {
            Some((file, number)) => format!("shaders/{file}.wgsl:{number}"),
            None => format!("assembled line {line}"),
        }
    }
}

impl Shader<'_> {
    /// The entry point, which is also the file's stem.
    pub fn entry(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(self.name)
    }

    /// Name and knob values, for labels and messages; of switches, those that are on.
    pub fn label(&self, knobs: &[u32]) -> String {
        let mut label = self.entry().to_owned();
        for (knob, value) in self.knobs.iter().zip(knobs) {
            match (knob.values, value) {
                ([0, 1], 0) => {}
                ([0, 1], 1) => label.extend([" ", knob.name]),
                _ => drop(write!(label, " {}={value}", knob.name)),
            }
        }
        label
    }

    /// Every combination of knob values in use.
    pub fn variants(&self) -> Vec<Vec<u32>> {
        self.knobs.iter().fold(vec![Vec::new()], |partial, knob| {
            partial.iter().flat_map(|values| knob.values.iter().map(|v| [values.as_slice(), &[*v]].concat())).collect()
        })
    }

    fn error(&self, knobs: &[u32], detail: impl Into<String>) -> Error {
        Error::Shader { kernel: self.label(knobs), detail: detail.into() }
    }

    /// Assembles, parses and reflects one variant. `validate` runs naga's validator too; wgpu runs it
    /// in any case before a kernel reaches a driver.
    pub(super) fn reflect(&self, knobs: &[u32], dialect: Dialect, validate: bool) -> Result<Reflected> {
        if knobs.len() != self.knobs.len() {
            return Err(self.error(knobs, format!("takes {} knobs, was given {}", self.knobs.len(), knobs.len())));
        }
        for (knob, value) in self.knobs.iter().zip(knobs) {
            if !knob.values.contains(value) {
                return Err(self.error(knobs, format!("{} must be one of {:?}", knob.name, knob.values)));
            }
        }
        let text = assemble_with_origins(self, knobs, dialect).map_err(|detail| self.error(knobs, detail))?;
        let module = naga::front::wgsl::parse_str(&text.code).map_err(|error| {
            let place = error.location(&text.code).map(|at| text.origin(at.line_number));
            self.error(knobs, format!("{}{error}", place.map(|p| p + ": ").unwrap_or_default()))
        })?;
        if validate {
            naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
                .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
                .subgroup_operations(naga::valid::SubgroupOperationSet::all())
                .validate(&module)
                .map_err(|error| {
                    let place = error.location(&text.code).map(|at| text.origin(at.line_number));
                    let cause = std::error::Error::source(error.as_inner()).map(|c| format!(": {c}"));
                    self.error(
                        knobs,
                        format!(
                            "{}{}{}",
                            place.map(|p| p + ": ").unwrap_or_default(),
                            error.as_inner(),
                            cause.unwrap_or_default()
                        ),
                    )
                })?;
        }
        self.read_module(knobs, module, text)
    }

    fn read_module(&self, knobs: &[u32], module: naga::Module, text: Text) -> Result<Reflected> {
        let [entry] = module.entry_points.as_slice() else {
            return Err(self.error(knobs, "must have exactly one entry point"));
        };
        if entry.name != self.entry() {
            return Err(self.error(knobs, format!("entry point must be called {}", self.entry())));
        }
        let workgroup = entry.workgroup_size;
        let mut bindings: Vec<(u32, bool)> = Vec::new();
        let mut params = None;
        for (_, global) in module.global_variables.iter() {
            match global.space {
                naga::AddressSpace::Storage { access } => {
                    let binding = global
                        .binding
                        .as_ref()
                        .ok_or_else(|| self.error(knobs, "a storage variable without @binding"))?;
                    bindings.push((binding.binding, access.contains(naga::StorageAccess::STORE)));
                }
                naga::AddressSpace::Uniform | naga::AddressSpace::Immediate => params = Some(global.ty),
                _ => {}
            }
        }
        bindings.sort_unstable();
        if bindings.len() != text.tensors as usize {
            return Err(self.error(knobs, "every storage variable must be declared with @tensor"));
        }
        self.compare_params(knobs, &module, params)?;
        Ok(Reflected { writes: bindings.into_iter().map(|(_, write)| write).collect(), workgroup, module, text })
    }

    /// Fails unless `struct Params` lies in memory as the Rust block does.
    fn compare_params(&self, knobs: &[u32], module: &naga::Module, ty: Option<naga::Handle<naga::Type>>) -> Result<()> {
        let mut found = Vec::new();
        if let Some(ty) = ty {
            let naga::TypeInner::Struct { members, .. } = &module.types[ty].inner else {
                return Err(self.error(knobs, "Params must be a struct"));
            };
            for member in members {
                let kind = match module.types[member.ty].inner {
                    naga::TypeInner::Scalar(naga::Scalar::U32) => "u32",
                    naga::TypeInner::Scalar(naga::Scalar::I32) => "i32",
                    naga::TypeInner::Scalar(naga::Scalar::F32) => "f32",
                    _ => "not a 32-bit scalar",
                };
                found.push((member.name.clone().unwrap_or_default(), member.offset as usize, kind));
            }
        }
        let same = found.len() == self.params.len()
            && found
                .iter()
                .zip(self.params)
                .all(|(wgsl, rust)| wgsl.0 == rust.name && wgsl.1 == rust.offset && wgsl.2 == rust.kind);
        if same {
            Ok(())
        } else {
            Err(self.error(knobs, format!("Params in WGSL {found:?} and in Rust {:?} differ", self.params)))
        }
    }
}

/// The text that naga sees for one variant, with parameters in a uniform buffer.
///
/// # Errors
/// [`Error::Shader`] where a directive is wrong.
pub fn assemble(shader: &Shader<'_>, knobs: &[u32]) -> Result<String> {
    assemble_with_origins(shader, knobs, Dialect::default())
        .map(|text| text.code)
        .map_err(|detail| shader.error(knobs, detail))
}

/// What the lines of an extension begin with.
const ENABLE: &str = "enable ";

fn assemble_with_origins(shader: &Shader<'_>, knobs: &[u32], dialect: Dialect) -> Result<Text, String> {
    let mut text = Text::default();
    for (index, line) in shader.source.lines().enumerate().filter(|(_, line)| line.starts_with(ENABLE)) {
        text.line(line, shader.name, index as u32 + 1);
    }
    for (knob, value) in shader.knobs.iter().zip(knobs) {
        text.line(&format!("const {}: u32 = {value}u;", knob.name), shader.name, 0);
    }
    let value_of = |name: &str| shader.knobs.iter().zip(knobs).find(|(knob, _)| knob.name == name).map(|(_, v)| *v);
    let mut imported = Vec::new();
    include(&mut text, shader.name, shader.source, &value_of, &mut imported)?;
    if !shader.params.is_empty() {
        let declaration = if dialect.immediates {
            "var<immediate> params: Params;".to_owned()
        } else {
            format!("@group(0) @binding({}) var<uniform> params: Params;", text.tensors)
        };
        text.line(&declaration, shader.name, 0);
    }
    if dialect.long {
        text.load_long();
    }
    Ok(text)
}

type ValueOf<'a> = dyn Fn(&str) -> Option<u32> + 'a;

fn include(
    text: &mut Text,
    file: &str,
    source: &str,
    value_of: &ValueOf<'_>,
    imported: &mut Vec<&'static str>,
) -> Result<(), String> {
    let lines: Vec<(u32, String)> = (1..).zip(source.lines().map(str::to_owned)).collect();
    expand(text, file, &lines, value_of, imported)
}

fn expand(
    text: &mut Text,
    file: &str,
    lines: &[(u32, String)],
    value_of: &ValueOf<'_>,
    imported: &mut Vec<&'static str>,
) -> Result<(), String> {
    // Each open `#if`: whether its lines are kept.
    let mut open: Vec<bool> = Vec::new();
    let mut at = 0;
    while let Some((number, line)) = lines.get(at) {
        at += 1;
        let fail = |what: String| format!("shaders/{file}.wgsl:{number}: {what}");
        let mut words = line.split_whitespace();
        match words.next() {
            Some("#if") => {
                let knob = words.next().unwrap_or_default();
                let value = value_of(knob).ok_or_else(|| fail(format!("#if {knob}: no such knob")))?;
                open.push(value != 0);
            }
            Some("#else") => match open.last_mut() {
                Some(keep) => *keep = !*keep,
                None => return Err(fail("#else without #if".to_owned())),
            },
            Some("#endif") => {
                open.pop().ok_or_else(|| fail("#endif without #if".to_owned()))?;
            }
            _ if open.contains(&false) || line.starts_with(ENABLE) => {}
            Some("#import") => {
                let name = words.next().unwrap_or_default();
                let (name, shared) = SHARED
                    .iter()
                    .find(|(known, _)| *known == name)
                    .ok_or_else(|| fail(format!("#import {name}: no shaders/shared/{name}.wgsl")))?;
                if !imported.contains(name) {
                    imported.push(name);
                    include(text, name, shared, value_of, imported)?;
                }
            }
            Some("#for") => {
                let (Some(variable), Some("<")) = (words.next(), words.next()) else {
                    return Err(fail("write #for NAME < NUMBER".to_owned()));
                };
                let bound: Vec<&str> = words.collect();
                let times = text.value(&bound).ok_or_else(|| fail(format!("#for: no value of {}", bound.join(" "))))?;
                let length = body(&lines[at..]).ok_or_else(|| fail("#for without #end".to_owned()))?;
                for i in 0..times {
                    let put = |(n, line): &(u32, String)| (*n, replaced(line, variable, &format!("{i}u")));
                    let lines: Vec<_> = lines[at..at + length].iter().map(put).collect();
                    expand(text, file, &lines, value_of, imported)?;
                }
                at += length + 1;
            }
            Some("#end") => return Err(fail("#end without #for".to_owned())),
            _ => text.line(line, file, *number),
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("shaders/{file}.wgsl: #if without #endif")) }
}

/// Lines up to the `#end` that belongs to a `#for` in front of them.
fn body(lines: &[(u32, String)]) -> Option<usize> {
    let mut depth = 0;
    lines.iter().position(|(_, line)| match line.split_whitespace().next() {
        Some("#for") => {
            depth += 1;
            false
        }
        Some("#end") if depth > 0 => {
            depth -= 1;
            false
        }
        first => first == Some("#end"),
    })
}

/// Where a word stands alone in a text.
fn places<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).map(|(start, _)| start).filter(move |&start| {
        let joined = text[..start].ends_with(|c| part_of_word(c) || c == '.');
        !joined && !text[start + word.len()..].starts_with(part_of_word)
    })
}

/// A text with another word in place of one.
fn replaced(text: &str, word: &str, by: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = 0;
    for start in places(text, word) {
        result.extend([&text[rest..start], by]);
        rest = start + word.len();
    }
    result + &text[rest..]
}

/// A text with `floats(name[...])` in place of every `name[...]`.
fn wrapped(text: &str, name: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = 0;
    for start in places(text, name) {
        let mut depth = 0;
        let closes = |c: char| {
            depth += i32::from(c == '[') - i32::from(c == ']');
            depth == 0
        };
        let index = start + name.len();
        // Elsewhere than in front of an index the name is declared.
        let Some(length) = text[index..].starts_with('[').then(|| text[index..].find(closes)).flatten() else {
            continue;
        };
        let end = index + length + 1;
        result.extend([&text[rest..start], "floats(", &text[start..end], ")"]);
        rest = end;
    }
    result + &text[rest..]
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::params! { struct TestParams { n: u32, scale: f32 } }

    static GOOD: Shader<'_> = Shader {
        name: "test/good",
        source: "struct Params { n: u32, scale: f32 }
#if WIDE
@tensor var<storage, read> x: array<vec4<f32>>;
#else
@tensor var<storage, read> x: array<f32>;
#endif
@tensor var<storage, read_write> y: array<f32>;
@compute @workgroup_size(WG) fn good(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < params.n) { y[id.x] = params.scale * dot(vec4<f32>(x[id.x]), vec4<f32>(1.0)); }
}",
        knobs: &[Knob { name: "WG", values: &[32, 64] }, Knob { name: "WIDE", values: &[0, 1] }],
        params: TestParams::FIELDS,
    };

    #[test]
    fn every_variant_reflects_its_bindings_and_workgroup() {
        for knobs in GOOD.variants() {
            for (immediates, long) in [(false, false), (true, false), (true, true)] {
                let reflected = GOOD.reflect(&knobs, Dialect { immediates, long }, true).unwrap();
                assert_eq!(reflected.writes, [false, true]);
                assert_eq!(reflected.workgroup, [knobs[0], 1, 1]);
            }
        }
        assert_eq!(GOOD.variants().len(), 4);
    }

    #[test]
    fn a_knob_value_out_of_its_list_is_refused() {
        let error = GOOD.reflect(&[48, 0], Dialect::default(), true).err().unwrap().to_string();
        assert!(error.contains("WG must be one of"), "{error}");
    }

    #[test]
    fn an_error_names_the_file_and_line_it_came_from() {
        static BAD: Shader<'_> = Shader {
            name: "test/bad",
            source: "#import reduce\n@compute @workgroup_size(1) fn bad() { let x = nonsense; }",
            knobs: &[Knob { name: "WG", values: &[64] }, Knob { name: "SUBGROUPS", values: &[0] }],
            params: &[],
        };
        let error = BAD.reflect(&[64, 0], Dialect::default(), true).err().unwrap().to_string();
        assert!(error.contains("shaders/test/bad.wgsl:2"), "{error}");
    }

    #[test]
    fn parameter_blocks_that_differ_are_refused() {
        crate::params! { struct Swapped { scale: f32, n: u32 } }
        static SWAPPED: Shader<'_> =
            Shader { name: "test/good", source: GOOD.source, knobs: GOOD.knobs, params: Swapped::FIELDS };
        let error = SWAPPED.reflect(&[32, 0], Dialect::default(), true).err().unwrap().to_string();
        assert!(error.contains("differ"), "{error}");
    }

    fn assembled(source: &str, dialect: Dialect) -> Result<String, String> {
        let knobs = &[Knob { name: "TM", values: &[4] }, Knob { name: "OFF", values: &[0] }];
        let shader = Shader { name: "test/loops", source, knobs, params: &[] };
        let header = "const TM: u32 = 4u;\nconst OFF: u32 = 0u;\n";
        assemble_with_origins(&shader, &[4, 0], dialect).map(|text| text.code.replace(header, ""))
    }

    #[test]
    fn lines_are_repeated_with_numbers_in_place_of_the_variable() {
        let lines = "const HALF: u32 = TM / 2u;\n#for i < HALF\n#for v < 2\na[i] += v * i0 + x.i + vi;\n#end\n#if OFF\nno\n#endif\n#end\nb";
        let line = |i: u32, v: u32| format!("a[{i}u] += {v}u * i0 + x.i + vi;\n");
        let expected = [
            "const HALF: u32 = TM / 2u;\n".to_owned(),
            line(0, 0),
            line(0, 1),
            line(1, 0),
            line(1, 1),
            "b\n".to_owned(),
        ]
        .concat();
        assert_eq!(assembled(lines, Dialect::default()), Ok(expected));
        for (wrong, says) in [
            ("#for i < TM\nx", "shaders/test/loops.wgsl:1: #for without #end"),
            ("y\n#end", "shaders/test/loops.wgsl:2: #end without #for"),
            ("#for i < TX\n#end", "shaders/test/loops.wgsl:1: #for: no value of TX"),
            ("#for i < TM / OFF\n#end", "no value of TM / OFF"),
            ("#for i < max(TM, 2)\n#end", "no value of max(TM, 2)"),
            ("#for i TM\n#end", "write #for NAME < NUMBER"),
        ] {
            let error = assembled(wrong, Dialect::default()).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn only_vectors_of_four_that_are_only_read_are_loaded_long() {
        let source = "alias T = vec4<f32>;
@tensor var<storage, read> x: array<T>;
@tensor var<storage, read> ids: array<u32>;
@tensor var<storage, read_write> y: array<vec4<f32>>;
@compute @workgroup_size(1) fn loops() { y[ids[0]] = x[ids[ids[1]]] + vec4<f32>(y[0].x, x[2].yzw); }";
        let long = assembled(source, Dialect { long: true, immediates: false }).unwrap();
        let body = "y[ids[0]] = floats(x[ids[ids[1]]]) + vec4<f32>(y[0].x, floats(x[2]).yzw);";
        assert!(long.contains(body) && long.contains("x: array<vec2<u64>>;"), "{long}");
        assert!(long.contains("y: array<vec4<f32>>;") && long.contains("fn floats("), "{long}");
        let plain = assembled(source, Dialect::default()).unwrap();
        assert!(plain.contains("x[ids[ids[1]]] + vec4<f32>(y[0].x, x[2].yzw)") && !plain.contains("u64"), "{plain}");
    }
}
