"""Methods whose defaults take too many forwards for a test, with fewer."""

FEWER = {
    "rise": "rise[masks=40]",
    "lime": "lime[cells=3,samples=30]",
    "kernel_shap": "kernel_shap[cells=3,samples=30]",
}
