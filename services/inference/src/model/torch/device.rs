//! Which device computes.

use std::error::Error;

use super::{DeviceChoice, LoadError};
use crate::kernels::load_libtorch_cuda;

/// The device for `choice`. `auto` says in the log why it did not take a GPU; a GPU that was asked for by name is had or
/// refused.
///
/// # Errors
/// The GPU asked for is not there.
pub(super) fn choose(choice: DeviceChoice) -> Result<tch::Device, LoadError> {
    match choice {
        DeviceChoice::Cpu => Ok(tch::Device::Cpu),
        DeviceChoice::Cuda(index) => cuda(index),
        DeviceChoice::Auto => Ok(cuda(0).unwrap_or_else(|error| {
            tracing::info!(reason = %error, "computing on the CPU");
            tch::Device::Cpu
        })),
    }
}

/// How a device is written in configuration and in answers.
pub(super) fn name(device: tch::Device) -> String {
    match device {
        tch::Device::Cuda(index) => format!("cuda:{index}"),
        tch::Device::Cpu | tch::Device::Mps | tch::Device::Vulkan => "cpu".into(),
    }
}

fn cuda(index: usize) -> Result<tch::Device, LoadError> {
    let device = format!("cuda:{index}");
    if let Err(error) = load_libtorch_cuda() {
        let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        return Err(LoadError::Device { device, reason });
    }
    let found = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
    if i64::try_from(index).is_ok_and(|index| index < found) {
        Ok(tch::Device::Cuda(index))
    } else {
        Err(LoadError::Device { device, reason: format!("libtorch sees {found} CUDA devices") })
    }
}
