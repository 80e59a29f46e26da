mod properties;
mod scenario;
mod simulated;
