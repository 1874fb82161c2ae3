//! The kernels in the shapes of a model's layer: products by rows, attention, and every operator beside what the machine gives.
//!
//! `cargo bench --bench kernels -- [--threads N] [--plot FILE.svg]`; `ROOTSTOCK_SIMD` forces an instruction set.

mod attention;
mod operators;
mod plot;
mod products;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use rootstock_kernels::{Context, Isa, ThreadPool, probe};

#[derive(Parser)]
struct Args {
    /// Compute threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Only the products by rows, attention by cases, or the operators beside the limits
    #[arg(long, value_parser = ["products", "attention", "roofline"])]
    only: Option<String>,
    /// Also draw the roofline
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the machine gives, measured in the same run.
pub struct Limits {
    /// int8 multiply-adds per second, of the vector unit.
    pub int8: f64,
    /// f32 multiply-adds per second.
    pub f32: f64,
    /// Bytes per second from 256 MiB.
    pub memory: f64,
    /// Bytes per second from 512 KiB per thread.
    pub cache: f64,
}

impl Limits {
    fn measure(context: &mut Context) -> Self {
        let time = Duration::from_millis(300);
        let cached = context.pool.threads() << 19;
        Self {
            int8: probe::int8_products(context, time),
            f32: probe::f32_products(context, time),
            memory: probe::read_bytes(context, 256 << 20, time),
            cache: probe::read_bytes(context, cached, time),
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut context = Context {
        pool: ThreadPool::new(args.threads)?,
        isa: Isa::detect()?,
    };
    let wanted = |part: &str| args.only.as_deref().is_none_or(|only| only == part);
    println!("{} threads, {}", args.threads, context.isa.name());
    if wanted("products") {
        products::print(&mut context)?;
    }
    if wanted("attention") {
        attention::print(&mut context)?;
    }
    if wanted("roofline") {
        let limits = Limits::measure(&mut context);
        println!(
            "\nLimits: {:.0} GMAC/s in int8, {:.0} GMAC/s in f32, {:.0} GB/s from memory, {:.0} GB/s from the second-level caches\n",
            limits.int8 / 1e9,
            limits.f32 / 1e9,
            limits.memory / 1e9,
            limits.cache / 1e9
        );
        let measured = operators::measure(&mut context)?;
        operators::print(&limits, &measured);
        if let Some(path) = &args.plot {
            plot::write(path, &limits, &measured)?;
        }
    }
    Ok(())
}

/// Median time of `work` over at least ten runs and 200 ms.
fn median(mut work: impl FnMut()) -> Duration {
    let mut times = Vec::new();
    let started = Instant::now();
    while times.len() < 10 || started.elapsed() < Duration::from_millis(200) {
        let start = Instant::now();
        work();
        times.push(start.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}
