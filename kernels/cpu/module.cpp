#include <nanobind/nanobind.h>
NB_MODULE(_cpu, m) { m.attr("x") = 1; }
