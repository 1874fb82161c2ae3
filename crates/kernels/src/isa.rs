//! Which instruction set the kernels run on: detected once, named in the log, forced by an environment variable in tests.

use crate::simd::Simd;
use crate::simd::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::simd::{amx::Amx, avx2::Avx2, avx512::Avx512};

/// An instruction set that this CPU has; holding one is the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Scalar(Scalar),
}

/// Environment variable that forces an instruction set by name.
pub const ISA_VARIABLE: &str = "ROOTSTOCK_SIMD";

/// The forced instruction set does not exist or this CPU lacks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownIsa {
    /// The name that was asked for.
    pub name: String,
    /// Names that would work here.
    pub available: Vec<&'static str>,
}

impl std::fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{ISA_VARIABLE}: {:?} is not one of this CPU's instruction sets ({})",
            self.name,
            self.available.join(", ")
        )
    }
}

impl std::error::Error for UnknownIsa {}

/// A computation written over [`Simd`], compiled once per instruction set by [`Isa::run`].
pub(crate) trait Kernel {
    type Output;
    /// Implementations are `#[inline(always)]`, else they are compiled without the instruction set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// A computation on the tile registers and the vectors beside them.
#[cfg(target_arch = "x86_64")]
pub(crate) trait TileKernel {
    /// Implementations are `#[inline(always)]`, as those of [`Kernel::run`].
    fn run(self, simd: Avx512, amx: Amx);
}

impl Isa {
    /// Every instruction set of this CPU that kernels are written for, best first.
    pub fn available() -> Vec<Isa> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Amx::detect().map(|isa| Isa(Kind::Amx(isa))));
            all.extend(Avx512::detect().map(|isa| Isa(Kind::Avx512(isa))));
            all.extend(Avx2::detect().map(|isa| Isa(Kind::Avx2(isa))));
        }
        all.push(Isa(Kind::Scalar(Scalar)));
        all
    }

    /// The best instruction set, or the one that the environment variable names.
    ///
    /// # Errors
    /// The variable names one that this CPU lacks.
    pub fn detect() -> Result<Isa, UnknownIsa> {
        let forced = std::env::var_os(ISA_VARIABLE).unwrap_or_default();
        Self::choose(forced.to_string_lossy().into_owned())
    }

    /// The instruction set of a name, the best one for none.
    fn choose(name: String) -> Result<Isa, UnknownIsa> {
        let all = Self::available();
        if name.is_empty() {
            return Ok(all[0]);
        }
        let available = all.iter().map(|isa| isa.name()).collect();
        let found = all.into_iter().find(|isa| isa.name() == name);
        found.ok_or(UnknownIsa { name, available })
    }

    /// The name that the log shows and the environment variable takes.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx(_) => "avx512-amx",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            Kind::Scalar(_) => "scalar",
        }
    }

    /// It has tile registers, which make products of rows in coarse groups several times as fast as others.
    pub fn has_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self.0, Kind::Amx(_));
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Its tile registers multiply bfloat16.
    pub fn has_bf16_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self.0, Kind::Amx(amx) if amx.has_bf16());
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Amx` exists only where the CPU has these features.
            Kind::Amx(amx) => unsafe { run_avx512(amx.vectors(), kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Avx512` exists only where the CPU has these features.
            Kind::Avx512(simd) => unsafe { run_avx512(simd, kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Avx2` exists only where the CPU has these features.
            Kind::Avx2(simd) => unsafe { run_avx2(simd, kernel) },
            Kind::Scalar(simd) => kernel.run(simd),
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Isa {
    /// Runs a kernel on tile registers where the instruction set has them; else false.
    #[inline]
    pub(crate) fn run_in_tiles(self, kernel: impl TileKernel) -> bool {
        let Kind::Amx(amx) = self.0 else {
            return false;
        };
        // SAFETY: an `Amx` exists only where the CPU has these features.
        unsafe { run_amx(amx, kernel) };
        true
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn run_amx(amx: Amx, kernel: impl TileKernel) {
    kernel.run(amx.vectors(), amx);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn run_avx512<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
    kernel.run(simd)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
    kernel.run(simd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_chooses_its_instruction_set_and_none_the_best() {
        let all = Isa::available();
        assert_eq!(Isa::choose(String::new()), Ok(all[0]));
        for isa in &all {
            assert_eq!(Isa::choose(isa.name().into()), Ok(*isa));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_that_work() {
        let error = Isa::choose("sse9".into()).unwrap_err();
        assert!(error.available.contains(&"scalar"));
        assert!(error.to_string().contains("\"sse9\"") && error.to_string().contains("scalar"));
    }
}
