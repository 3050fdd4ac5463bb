//! From WGSL files to one validated, reflected module.
//!
//! A kernel is one file with one entry point. Its text may use three directives, each alone on a line
//! and outside of functions: `#import NAME` takes in `shaders/shared/NAME.wgsl` once; `#if KNOB`,
//! `#else`, `#endif` keep declarations for a knob's non-zero or zero value. Knobs become `const`s in a
//! header, so bodies choose with ordinary `if`s that the driver folds. `@tensor` in front of a storage
//! variable stands for the next free binding, in order of appearance. A `struct Params` in the file is
//! bound behind the tensors as a uniform buffer, or as immediates where the device has them. Lines that
//! begin with `enable ` move to the top, where WGSL wants them.

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
    ("hyper", include_str!("../../shaders/shared/hyper.wgsl")),
    ("logits", include_str!("../../shaders/shared/logits.wgsl")),
    ("matmul", include_str!("../../shaders/shared/matmul.wgsl")),
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

/// How a parameter block reaches the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParamsVia {
    Uniform,
    Immediates,
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
    pub(super) fn reflect(&self, knobs: &[u32], via: ParamsVia, validate: bool) -> Result<Reflected> {
        if knobs.len() != self.knobs.len() {
            return Err(self.error(knobs, format!("takes {} knobs, was given {}", self.knobs.len(), knobs.len())));
        }
        for (knob, value) in self.knobs.iter().zip(knobs) {
            if !knob.values.contains(value) {
                return Err(self.error(knobs, format!("{} must be one of {:?}", knob.name, knob.values)));
            }
        }
        let text = assemble_with_origins(self, knobs, via).map_err(|detail| self.error(knobs, detail))?;
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
    assemble_with_origins(shader, knobs, ParamsVia::Uniform)
        .map(|text| text.code)
        .map_err(|detail| shader.error(knobs, detail))
}

/// What the lines of an extension begin with.
const ENABLE: &str = "enable ";

fn assemble_with_origins(shader: &Shader<'_>, knobs: &[u32], via: ParamsVia) -> Result<Text, String> {
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
        let declaration = match via {
            ParamsVia::Immediates => "var<immediate> params: Params;".to_owned(),
            ParamsVia::Uniform => format!("@group(0) @binding({}) var<uniform> params: Params;", text.tensors),
        };
        text.line(&declaration, shader.name, 0);
    }
    Ok(text)
}

fn include(
    text: &mut Text,
    file: &str,
    source: &str,
    value_of: &dyn Fn(&str) -> Option<u32>,
    imported: &mut Vec<&'static str>,
) -> Result<(), String> {
    // Each open `#if`: whether its lines are kept.
    let mut open: Vec<bool> = Vec::new();
    for (index, line) in source.lines().enumerate() {
        let number = index as u32 + 1;
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
            _ => text.line(line, file, number),
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("shaders/{file}.wgsl: #if without #endif")) }
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
            for via in [ParamsVia::Uniform, ParamsVia::Immediates] {
                let reflected = GOOD.reflect(&knobs, via, true).unwrap();
                assert_eq!(reflected.writes, [false, true]);
                assert_eq!(reflected.workgroup, [knobs[0], 1, 1]);
            }
        }
        assert_eq!(GOOD.variants().len(), 4);
    }

    #[test]
    fn a_knob_value_out_of_its_list_is_refused() {
        let error = GOOD.reflect(&[48, 0], ParamsVia::Uniform, true).err().unwrap().to_string();
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
        let error = BAD.reflect(&[64, 0], ParamsVia::Uniform, true).err().unwrap().to_string();
        assert!(error.contains("shaders/test/bad.wgsl:2"), "{error}");
    }

    #[test]
    fn parameter_blocks_that_differ_are_refused() {
        crate::params! { struct Swapped { scale: f32, n: u32 } }
        static SWAPPED: Shader<'_> =
            Shader { name: "test/good", source: GOOD.source, knobs: GOOD.knobs, params: Swapped::FIELDS };
        let error = SWAPPED.reflect(&[32, 0], ParamsVia::Uniform, true).err().unwrap().to_string();
        assert!(error.contains("differ"), "{error}");
    }
}
