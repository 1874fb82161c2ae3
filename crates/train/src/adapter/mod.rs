//! What is trained beside a frozen model: a configuration as peft has it ([`LoraSettings`]) or AdapterHub ([`BottleneckSettings`]), the
//! tensors that it asks for ([`attach`]), and the folder that they become ([`write_folder`]).
//!
//! The configuration is written first and then read by the same code as a served adapter's, so that what is trained is what
//! takes effect.

mod attach;
mod bottleneck;
mod config;
mod configuration;
mod folder;
mod pissa;
mod whole;

pub use attach::{Attached, attach};
pub use bottleneck::{BottleneckKind, BottleneckSettings, bottleneck_config};
pub use config::{Initialisation, LoraSettings, Targets, adapter_config};
pub use configuration::Configuration;
pub use folder::{Folder, read_config, read_tensors, write_folder};
pub use pissa::{begin_as_components, doubled_config};
pub(crate) use whole::Builder;
