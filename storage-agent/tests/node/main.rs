//! Agents as programs, with directory storage and the process runtime: what they prove of
//! themselves to one another, and what they do when nobody confirms them.

mod bed;
mod doctor;
mod fence;
mod supervise;
mod tls;
