//! Tile registers (AMX): one instruction multiplies sixteen rows of int8 by sixteen columns of int8.
//!
//! Only integers go through tiles: their sums are exact, so that the results are those of the vector instructions, bit
//! for bit. Tiles are configured and released within one call of a kernel, so that no other code sees them in use.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __m512i, _mm512_set1_epi8, _mm512_sub_epi8};
use std::sync::OnceLock;

use super::avx512::Avx512;

/// Rows of a tile at most.
pub(crate) const TILE_ROWS: usize = 16;

/// Proof that the CPU has int8 tiles beside AVX-512, and that the operating system lets this process use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amx(Avx512);

/// Memory of the configuration instruction: palette 1, then bytes per row and rows of each of eight tiles.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

/// Registers that take sums; with four, the unit is busy while results are stored.
pub(crate) const SUMS: usize = 4;

macro_rules! multiply {
    ($sums:tt, $rows:tt, $columns:tt, $inputs:ident, $stride:ident, $weights:ident, $start:ident) => {
        asm!(
            concat!("tileloadd ", $rows, ", [{inputs} + {stride}]"),
            concat!("tileloadd ", $columns, ", [{weights} + {line}]"),
            concat!("tileloadd ", $sums, ", [{start} + {none}]"),
            concat!("tdpbssd ", $sums, ", ", $rows, ", ", $columns),
            inputs = in(reg) $inputs,
            stride = in(reg) $stride,
            weights = in(reg) $weights,
            line = in(reg) 64usize,
            start = in(reg) $start,
            none = in(reg) 0usize,
            out($sums) _,
            out($rows) _,
            out($columns) _,
            options(nostack, preserves_flags, readonly)
        )
    };
}

macro_rules! add_products {
    ($first:tt, $second:tt, $rows:ident, $columns:ident) => {
        asm!(
            "tileloadd tmm6, [{columns} + {line}]",
            "tileloadd tmm4, [{rows} + {line}]",
            concat!("tdpbssd ", $first, ", tmm4, tmm6"),
            "tileloadd tmm5, [{more} + {line}]",
            concat!("tdpbssd ", $second, ", tmm5, tmm6"),
            rows = in(reg) $rows[0],
            more = in(reg) $rows[1],
            columns = in(reg) $columns,
            line = in(reg) 64usize,
            out($first) _,
            out($second) _,
            out("tmm4") _,
            out("tmm5") _,
            out("tmm6") _,
            options(nostack, preserves_flags, readonly)
        )
    };
}

macro_rules! store {
    ($sums:tt, $out:ident) => {
        asm!(
            concat!("tilestored [{out} + {line}], ", $sums),
            out = in(reg) $out,
            line = in(reg) 64usize,
            options(nostack, preserves_flags)
        )
    };
}

impl Amx {
    pub(crate) fn detect() -> Option<Self> {
        static USABLE: OnceLock<bool> = OnceLock::new();
        let vectors = Avx512::detect()?;
        USABLE
            .get_or_init(|| has_int8_tiles() && request_permission())
            .then_some(Self(vectors))
    }

    /// The vector instructions beside the tiles.
    pub(crate) fn vectors(self) -> Avx512 {
        self.0
    }

    /// Shapes the tiles for [`Self::multiply`]: `rows` (1..=16) rows of `depth` (4..=64, by fours) inputs.
    #[inline(always)]
    pub(crate) fn configure(self, rows: usize, depth: usize) {
        assert!((1..=TILE_ROWS).contains(&rows) && depth.is_multiple_of(4) && (4..=64).contains(&depth));
        let mut configuration = Configuration([0; 64]);
        let bytes = &mut configuration.0;
        bytes[0] = 1;
        for tile in 0..8 {
            let (tile_rows, row_bytes) = match tile {
                0..4 => (rows, 64),
                4..6 => (rows, depth),
                _ => (depth / 4, 64),
            };
            bytes[16 + 2 * tile] = row_bytes as u8;
            bytes[48 + tile] = tile_rows as u8;
        }
        // SAFETY: an `Amx` exists only where tiles may be used, and the shapes are within their limits.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &configuration, options(nostack, preserves_flags)) }
    }

    /// Back to the state without tiles.
    #[inline(always)]
    pub(crate) fn release(self) {
        // SAFETY: an `Amx` exists only where tiles may be used.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) }
    }

    /// Products of rows of int8 inputs with sixteen columns, added to `start` in every row, into one of [`SUMS`] registers.
    ///
    /// # Safety
    /// Tiles are configured; `inputs` are rows at `stride` bytes of the configured shape; `weights` are `depth / 4` lines of
    /// 64 bytes, the byte `4 * column + t` of line `l` for input `4 * l + t`.
    #[inline(always)]
    pub(crate) unsafe fn multiply<const SUM: usize>(
        self,
        (inputs, stride): (*const i8, usize),
        weights: *const u8,
        start: &[i32; 16],
    ) {
        // SAFETY: by the caller's promise.
        unsafe {
            match SUM {
                0 => multiply!("tmm0", "tmm4", "tmm6", inputs, stride, weights, start),
                1 => multiply!("tmm1", "tmm5", "tmm7", inputs, stride, weights, start),
                2 => multiply!("tmm2", "tmm4", "tmm6", inputs, stride, weights, start),
                _ => multiply!("tmm3", "tmm5", "tmm7", inputs, stride, weights, start),
            }
        }
    }

    /// Sets the two registers of sums from `2 * SET` on to zeros.
    ///
    /// # Safety
    /// Tiles are configured.
    #[inline(always)]
    pub(crate) unsafe fn zero_sums<const SET: usize>(self) {
        // SAFETY: by the caller's promise.
        unsafe {
            match SET {
                0 => asm!("tilezero tmm0", "tilezero tmm1", out("tmm0") _, out("tmm1") _, options(nostack, nomem)),
                _ => asm!("tilezero tmm2", "tilezero tmm3", out("tmm2") _, out("tmm3") _, options(nostack, nomem)),
            }
        }
    }

    /// Adds the products of two tiles of rows with one of columns to the registers of a set. A tile is sixteen lines of
    /// 64 bytes: rows of inputs, or columns as in [`Self::multiply`].
    ///
    /// # Safety
    /// Tiles are configured for sixteen rows and a depth of 64; sixteen lines can be read from every pointer.
    #[inline(always)]
    pub(crate) unsafe fn add_products<const SET: usize>(self, rows: [*const u8; 2], columns: *const u8) {
        // SAFETY: by the caller's promise.
        unsafe {
            match SET {
                0 => add_products!("tmm0", "tmm1", rows, columns),
                _ => add_products!("tmm2", "tmm3", rows, columns),
            }
        }
    }

    /// Writes the products of [`Self::multiply`]: rows of sixteen i32.
    ///
    /// # Safety
    /// `out` takes as many rows as are configured.
    #[inline(always)]
    pub(crate) unsafe fn store<const SUM: usize>(self, out: *mut i32) {
        // SAFETY: by the caller's promise.
        unsafe {
            match SUM {
                0 => store!("tmm0", out),
                1 => store!("tmm1", out),
                2 => store!("tmm2", out),
                _ => store!("tmm3", out),
            }
        }
    }

    /// Whether tiles multiply bfloat16 too.
    pub(crate) fn has_bf16(self) -> bool {
        __cpuid_count(7, 0).edx >> 22 & 1 == 1
    }

    /// Sets all four registers of sums to zeros.
    ///
    /// # Safety
    /// Tiles are configured.
    #[inline(always)]
    pub(crate) unsafe fn zero_all(self) {
        // SAFETY: by the caller's promise.
        unsafe {
            self.zero_sums::<0>();
            self.zero_sums::<1>();
        }
    }

    /// Adds the products of two tiles of rows (bfloat16, rows `stride` bytes apart) with two of columns (lines of 16 pairs
    /// of bfloat16) to the four registers of sums: rows 0 by columns 0 and 1, then rows 1.
    ///
    /// # Safety
    /// The CPU has bfloat16 tiles, and they are configured for sixteen rows and a depth of 64; sixteen rows of 64 bytes can be
    /// read from every pointer.
    #[inline(always)]
    pub(crate) unsafe fn multiply_bf16<T>(self, rows: [*const u16; 2], stride: usize, columns: [*const T; 2]) {
        // SAFETY: by the caller's promise.
        unsafe {
            asm!(
                "tileloadd tmm4, [{rows} + {stride}]",
                "tileloadd tmm6, [{columns} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{more_columns} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{more_rows} + {stride}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                rows = in(reg) rows[0],
                more_rows = in(reg) rows[1],
                columns = in(reg) columns[0],
                more_columns = in(reg) columns[1],
                stride = in(reg) stride,
                line = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly)
            )
        }
    }

    /// Writes the four registers of sums one after another, 16 rows of 16 each.
    ///
    /// # Safety
    /// `out` takes 1024 numbers of four bytes.
    #[inline(always)]
    pub(crate) unsafe fn store_all(self, out: *mut i32) {
        // SAFETY: by the caller's promise.
        unsafe {
            self.store::<0>(out);
            self.store::<1>(out.add(256));
            self.store::<2>(out.add(512));
            self.store::<3>(out.add(768));
        }
    }

    /// Each of 64 bytes minus `zero`, wrapping.
    #[inline(always)]
    pub(crate) fn subtract(self, bytes: __m512i, zero: i8) -> __m512i {
        // SAFETY: an `Amx` implies AVX-512.
        unsafe { _mm512_sub_epi8(bytes, _mm512_set1_epi8(zero)) }
    }
}

/// AMX-TILE and AMX-INT8.
fn has_int8_tiles() -> bool {
    let features = __cpuid_count(7, 0).edx;
    features >> 24 & 3 == 3
}

/// Asks the kernel for the memory of tile registers in this process's threads.
#[cfg(target_os = "linux")]
fn request_permission() -> bool {
    const ARCH_PRCTL: isize = 158;
    const REQUEST_PERMISSION: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let result: isize;
    // SAFETY: a system call that touches no memory of ours.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack)
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn request_permission() -> bool {
    false
}
